//! The members of a collection: names, kinds, sizes, times, and whether the listing is complete.
//!
//! A mirror takes a name for removed only when a complete listing lacks it, so `complete` is never said lightly: a
//! directory can change while it is read, and POSIX lets such a reading miss names that were there all the time. The
//! names are read again until two readings agree and the directory's times have not moved between them; if they never
//! do, the listing says that it is not complete.
//!
//! A collection may have a million members. [`MemberNames`] holds the names in one piece of memory, some 25 bytes each
//! beside their letters; everything else is asked of the file system member by member, as an answer comes to it. Of
//! the second reading only a checksum is kept.
//!
//! Names that no path can name (`path.rs`) and links that lead nowhere in the tree are counted as `skipped`: a
//! collection that has only these is not empty. Hidden names, millpond's own, pipes, sockets and devices are no
//! members.

use super::digest_cache::{DigestCache, INLINE_BYTES};
use super::error::DirectoryError;
use super::etag::Tag;
use super::path::{self, TreePath};
use super::tree::{Stamp, Tree, stamp};
use rustix::fs::{AtFlags, Dir, FileType, StatxFlags, statat, statx};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The readings of a directory that changes, before its listing is called incomplete: a judgement.
const MAX_READINGS: usize = 6;

/// The kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    /// A collection. Collections sort before files where people look.
    Collection,
    /// A file.
    File,
}

/// A member of a collection.
#[derive(Debug, Clone)]
pub struct Member {
    /// The name.
    pub name: String,
    /// The kind; of a link, that of its target.
    pub kind: MemberKind,
    /// The stamp; of a link, that of its target.
    pub stamp: Stamp,
    /// The member is a symbolic link.
    pub link: bool,
    /// The entity tag, unless a reading of the file would change it.
    pub tag: Option<Tag>,
}

/// The names in a collection, in the order of their bytes.
#[derive(Debug)]
pub struct MemberNames {
    text: String,
    /// The end of each name in `text`.
    ends: Vec<usize>,
    /// Every name that was there at one moment is either listed or counted in `skipped`.
    pub complete: bool,
    /// The number of names that are there and not listed.
    pub skipped: usize,
}

/// A checksum over the names of one reading, whatever their order: directories give none. Sum and exclusive or
/// together tell a name that came twice from one that came not at all.
#[derive(Debug, Default, PartialEq, Eq)]
struct NamesChecksum {
    names: usize,
    xored: u128,
    added: u128,
}

impl NamesChecksum {
    fn add(&mut self, name: &[u8]) {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(name).as_bytes()[..16]);
        let hash = u128::from_le_bytes(half);
        self.names += 1;
        self.xored ^= hash;
        self.added = self.added.wrapping_add(hash);
    }
}

impl MemberNames {
    /// Reads the names in the open collection at `path`; hidden ones too, if `hidden`.
    ///
    /// # Errors
    /// Where the disk does not give them.
    pub fn read(tree: &Arc<Tree>, path: &TreePath, handle: &OwnedFd, hidden: bool) -> Result<Self, DirectoryError> {
        let mut last = None;
        for _ in 0..MAX_READINGS {
            let before = stamp(handle)?;
            let (names, sum) = Self::read_once(tree, path, handle, hidden)?;
            let again = read_checksum(handle)?;
            let same = sum == again && stamp(handle)? == before;
            last = Some(Self {
                complete: same,
                ..names
            });
            if same {
                break;
            }
        }
        // A directory that was removed reads as empty, and must not be listed so.
        tree.check_root()?;
        last.ok_or(DirectoryError::ChangedMeanwhile)
    }

    fn read_once(
        tree: &Arc<Tree>,
        path: &TreePath,
        handle: &OwnedFd,
        hidden: bool,
    ) -> Result<(Self, NamesChecksum), DirectoryError> {
        let failed = DirectoryError::from_errno("read a directory");
        let path = path.with_slash();
        let (mut found, mut skipped, mut sum) = (Vec::new(), 0, NamesChecksum::default());
        // A new open file description: readings at the same time must not share a position.
        for entry in Dir::read_from(handle).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            sum.add(entry.file_name().to_bytes());
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(_) if is_special(entry.file_type()) => {}
                Ok(name) if !path::can_be_named(name) => skipped += 1,
                Ok(name) if !tree.serves_member(&path, name) || (!hidden && name.starts_with('.')) => {}
                Ok(name) => {
                    let leads_nowhere = entry.file_type() == FileType::Symlink
                        && tree.inspect_through_links(&path.child(name)).is_err();
                    match leads_nowhere {
                        true => skipped += 1,
                        false => found.push(name.to_owned()),
                    }
                }
                Err(_) => skipped += 1,
            }
        }
        found.sort_unstable();
        let (mut text, mut ends) = (String::new(), Vec::with_capacity(found.len()));
        for name in found {
            text.push_str(&name);
            ends.push(text.len());
        }
        let names = Self {
            text,
            ends,
            complete: false,
            skipped,
        };
        Ok((names, sum))
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The memory that the names take, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// The name at that index.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        self.text.get(start.unwrap_or(0)..end)
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The index of the first name behind that one.
    pub fn index_after(&self, name: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).is_some_and(|other| other <= name) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }
}

fn is_special(kind: FileType) -> bool {
    use FileType as T;
    matches!(kind, T::Fifo | T::Socket | T::CharacterDevice | T::BlockDevice)
}

/// The checksum of another reading.
fn read_checksum(handle: &OwnedFd) -> Result<NamesChecksum, DirectoryError> {
    let failed = DirectoryError::from_errno("read a directory");
    let mut sum = NamesChecksum::default();
    for entry in Dir::read_from(handle).map_err(&failed)? {
        sum.add(entry.map_err(&failed)?.file_name().to_bytes());
    }
    Ok(sum)
}

/// The member of that name; `None` where it is gone, or is nothing that is served.
///
/// # Errors
/// Where the disk does not tell.
pub fn member(
    tree: &Arc<Tree>,
    tags: &DigestCache,
    path: &TreePath,
    handle: &OwnedFd,
    name: &str,
) -> Result<Option<Member>, DirectoryError> {
    if tree.mounts().is_mount(path, name) {
        return Ok(mount_point_member(handle, name));
    }
    let stat = match statat(handle, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(DirectoryError::from_errno("inspect a file")(errno)),
    };
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let stat = match link {
        // A link that leads nowhere, or out of the tree, is absent for clients as well.
        true => match tree.inspect_through_links(&path.with_slash().child(name)) {
            Ok(stat) => stat,
            // A listing without this member would say that it is gone, so the listing fails.
            Err(DirectoryError::MountHangs) => return Err(DirectoryError::MountHangs),
            Err(_) => return Ok(None),
        },
        false => stat,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => MemberKind::File,
        FileType::Directory => MemberKind::Collection,
        _ => return Ok(None),
    };
    let stamp = Stamp::of(&stat);
    Ok(Some(Member {
        name: name.to_owned(),
        kind,
        stamp,
        link,
        tag: (kind == MemberKind::File).then(|| lasting_tag(tags, &stamp)).flatten(),
    }))
}

/// The tag of that state, unless a reading of the file would change it.
fn lasting_tag(tags: &DigestCache, stamp: &Stamp) -> Option<Tag> {
    let tag = tags.tag_without_reading(stamp);
    (tag.is_strong() || stamp.size > INLINE_BYTES).then_some(tag)
}

/// A mount point, described by what the kernel remembers of it: the file system itself may not answer.
fn mount_point_member(handle: &OwnedFd, name: &str) -> Option<Member> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(handle, name, flags, StatxFlags::BASIC_STATS).ok()?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => MemberKind::Collection,
        // A file that is mounted over another file is read like any other.
        FileType::RegularFile => MemberKind::File,
        _ => return None,
    };
    Some(Member {
        name: name.to_owned(),
        kind,
        stamp: Stamp::of_statx(&stat),
        link: false,
        tag: None,
    })
}

/// A digest over what a listing says of its members: the same for all of its pages and forms.
#[derive(Debug, Default)]
pub struct ListingDigest(blake3::Hasher);

impl ListingDigest {
    /// Adds a member; members come in the order of their names.
    pub fn add(&mut self, member: &Member) {
        let Member {
            name,
            kind,
            stamp,
            link,
            ..
        } = member;
        let text = format!("{name}\0{kind:?}\0{}\0{}\0{link}\0", stamp.size, stamp.modified);
        self.0.update(text.as_bytes());
    }

    /// The digest, in hexadecimal.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex()[..32].to_owned()
    }
}

/// The other name in the collection that a case-folding file system takes for `name`; `None` where there is none.
pub(super) fn colliding_name(handle: &OwnedFd, name: &str) -> Result<Option<String>, DirectoryError> {
    let failed = DirectoryError::from_errno("read a directory");
    let case_folded = path::case_folded(name);
    let mut found = None;
    for entry in Dir::read_from(handle).map_err(&failed)? {
        match entry.map_err(&failed)?.file_name().to_str() {
            Ok(other) if other == name => return Ok(None),
            Ok(other) if path::case_folded(other) == case_folded => found = Some(other.to_owned()),
            _ => {}
        }
    }
    Ok(found)
}
