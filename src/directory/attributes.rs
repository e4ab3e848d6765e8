//! The metadata of a file: owner, group, rights, access lists, extended attributes and times.
//!
//! A body is a new file, so the metadata of the file that it replaces are copied to it before it is placed. What the
//! server's user may not set (another owner, say) stays as it is: that is no reason to lose the bytes. The set-user-ID
//! and set-group-ID bits of a file are never copied: new bytes must not run with the rights of somebody who has not
//! seen them, and write(2) clears the bits for the same reason.

use super::error::DirectoryError;
use rustix::fs::{
    FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, futimens, openat,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// The longest value of an extended attribute, in bytes: Linux' `XATTR_SIZE_MAX`.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// The default access list of a directory, which new files in it inherit.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The permission bits without set-user-ID and set-group-ID.
const PLAIN_RIGHTS: u32 = 0o1777;

/// The set-group-ID bit: of a directory it gives new members the directory's group.
const SET_GROUP_ID: u32 = 0o2000;

/// Gives a file the metadata of the one that it is to replace.
pub(super) fn preserve(file: &File, parent: &OwnedFd, name: &str, old: &Stat) -> Result<(), DirectoryError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut changed = false;
    if let Ok(original) = openat(parent, name, flags, Mode::empty()) {
        changed |= copy_xattrs(&original, file);
    }
    let failed = DirectoryError::from_errno("inspect a file");
    let now = rustix::fs::fstat(file).map_err(failed)?;
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid) {
        let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        // Only root can give a file away; its owner can at least give it to a group of his own.
        let kept = fchown(file, Some(owner), Some(group)).or_else(|_| fchown(file, None, Some(group)));
        changed |= kept.is_ok();
    }
    // The rights come after the owner: a change of that may clear bits.
    if now.st_mode & 0o7777 != old.st_mode & PLAIN_RIGHTS {
        changed |= fchmod(file, Mode::from_raw_mode(old.st_mode & PLAIN_RIGHTS)).is_ok();
    }
    match changed {
        true => file.sync_all().map_err(DirectoryError::from_io("keep a file's rights")),
        false => Ok(()),
    }
}

/// Copies all metadata, as far as the server's user may: for a copy that takes the original's place elsewhere.
pub(super) fn copy_metadata(from: impl AsFd, to: impl AsFd) -> Result<(), DirectoryError> {
    copy_xattrs(&from, &to);
    let stat = rustix::fs::fstat(&from).map_err(DirectoryError::from_errno("inspect a file"))?;
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let _ = fchown(&to, Some(owner), Some(group)).or_else(|_| fchown(&to, None, Some(group)));
    let set_group_id = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => SET_GROUP_ID,
        _ => 0,
    };
    let _ = fchmod(&to, Mode::from_raw_mode(stat.st_mode & (PLAIN_RIGHTS | set_group_id)));
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    let _ = futimens(&to, &times);
    Ok(())
}

/// Copies the extended attributes of users and the access lists; whether there were any.
pub(super) fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> bool {
    // `trusted.` attributes are overlayfs' own and speak of one inode; capabilities are bound to the bytes, like
    // set-user-ID.
    let kept = |name: &str| !name.starts_with("trusted.") && name != "security.capability";
    copy_matching(from, to, kept)
}

/// Copies the extended attributes of users; whether there were any.
pub(super) fn copy_user_xattrs(from: impl AsFd, to: impl AsFd) -> bool {
    copy_matching(from, to, |name| name.starts_with("user."))
}

fn copy_matching(from: impl AsFd, to: impl AsFd, kept: impl Fn(&str) -> bool) -> bool {
    let mut some = false;
    for name in list_xattrs(&from).iter().filter(|name| kept(name)) {
        if let Some(value) = get_xattr(&from, name) {
            some |= fsetxattr(&to, name.as_str(), &value, XattrFlags::empty()).is_ok();
        }
    }
    some
}

/// Whether new files in that directory inherit something that a file made elsewhere lacks.
pub(super) fn is_inherited_from(directory: &OwnedFd) -> bool {
    rustix::fs::fstat(directory).is_ok_and(|stat| stat.st_mode & SET_GROUP_ID != 0)
        || get_xattr(directory, DEFAULT_ACL).is_some()
}

/// The value of an extended attribute; `None` where there is none, or the file system keeps none.
pub(super) fn get_xattr(file: impl AsFd, name: &str) -> Option<Vec<u8>> {
    let mut space = vec![0; 1024];
    loop {
        match fgetxattr(&file, name, &mut space[..]) {
            Ok(length) => {
                space.truncate(length);
                return Some(space);
            }
            Err(Errno::RANGE) if space.len() < MAX_VALUE_BYTES => space.resize(MAX_VALUE_BYTES, 0),
            Err(_) => return None,
        }
    }
}

/// Sets an extended attribute, or removes it.
pub(super) fn set_xattr(file: impl AsFd, name: &str, value: Option<&[u8]>) -> rustix::io::Result<()> {
    match value {
        Some(value) => fsetxattr(file, name, value, XattrFlags::empty()),
        None => match fremovexattr(file, name) {
            Err(Errno::NODATA) => Ok(()),
            removed => removed,
        },
    }
}

fn list_xattrs(file: impl AsFd) -> Vec<String> {
    let mut space = vec![0; MAX_VALUE_BYTES];
    let length = flistxattr(file, &mut space[..]).unwrap_or(0);
    let names = space.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    let names = names.filter_map(|name| String::from_utf8(name.to_vec()).ok());
    names.filter(|name| !name.is_empty()).collect()
}
