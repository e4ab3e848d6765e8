//! What is in a collection: names, kinds, sizes, times, and whether that is all.
//!
//! A mirror believes absence only when a listing says that it is complete, so `complete` is never said lightly: a
//! directory can change while it is read, and POSIX lets such a reading miss what was there all the time. The names
//! are read again until two readings agree and the directory's times have not moved; where they never do, the
//! listing says that it is not complete.
//!
//! A collection may have a million members. [`MemberNames`] holds them in one piece of memory, some 25 bytes each beside their letters;
//! everything else is asked of the file system member by member, as an answer comes to it. The second reading is only summed.
//!
//! Names that no path can name (`path.rs`) and links that lead nowhere in the tree are counted as `skipped`; a collection that has
//! only these is not empty. Hidden names, millpond's own, pipes, sockets and devices are no members.

use super::digest_cache::{DigestCache, INLINE_BYTES, Tag};
use super::error::DirectoryError;
use super::path::{self, TreePath};
use super::tree::{Stamp, Tree, stamp};
use rustix::fs::{AtFlags, Dir, FileType, StatxFlags, statat, statx};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// How often a directory that changes is read.
const MAX_READINGS: usize = 6;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    /// A collection; they come first where people look.
    Collection,
    /// A file.
    File,
}

/// A member of a collection.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// What it is; of a link, what the link leads to.
    pub kind: MemberKind,
    /// Its state; of a link, that of what the link leads to.
    pub stamp: Stamp,
    /// Whether it is a symbolic link.
    pub link: bool,
    /// The tag of its bytes, where it will be the same after they have been read.
    pub tag: Option<Tag>,
}

/// The names in a collection, in the order of their bytes.
#[derive(Debug)]
pub struct MemberNames {
    text: String,
    /// Where each name ends in the text.
    ends: Vec<usize>,
    /// Whether nothing was there, at one moment, that is not listed or skipped.
    pub complete: bool,
    /// How many names are not listed that are there.
    pub skipped: usize,
}

/// The sum of a reading, whatever its order.
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
    /// Reads those of the open collection at `path`; `hidden` ones too, where they are asked for.
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
        // A directory that was removed has no members either, and is no empty one.
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
        // A handle of its own: readings at once must not share a position.
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How much memory they take, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>()
    }

    /// The name at that place.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        self.text.get(start.unwrap_or(0)..end)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The place of the first name behind that one.
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

/// The sum of another reading.
fn read_checksum(handle: &OwnedFd) -> Result<NamesChecksum, DirectoryError> {
    let failed = DirectoryError::from_errno("read a directory");
    let mut sum = NamesChecksum::default();
    for entry in Dir::read_from(handle).map_err(&failed)? {
        sum.add(entry.map_err(&failed)?.file_name().to_bytes());
    }
    Ok(sum)
}

/// The member of that name; `None` where it is gone, or nothing that is served.
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
        // What leads nowhere, or out of the tree, is not there for a client either.
        true => match tree.inspect_through_links(&path.with_slash().child(name)) {
            Ok(stat) => stat,
            // A listing without it would say that it is gone.
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

/// The tag of that state, unless a reading would make it another.
fn lasting_tag(tags: &DigestCache, stamp: &Stamp) -> Option<Tag> {
    let tag = tags.tag_without_reading(stamp);
    (tag.is_strong() || stamp.size > INLINE_BYTES).then_some(tag)
}

/// A mount point, by what the kernel remembers of it: the file system itself may not answer.
fn mount_point_member(handle: &OwnedFd, name: &str) -> Option<Member> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(handle, name, flags, StatxFlags::BASIC_STATS).ok()?;
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => MemberKind::Collection,
        // A file that is mounted over another is read like any other.
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

/// A digest of what a listing says of its members, the same for all of its pages and forms.
#[derive(Debug, Default)]
pub struct ListingDigest(blake3::Hasher);

impl ListingDigest {
    /// One member more, in the order of the names.
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

    /// What all of them come to.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex()[..32].to_owned()
    }
}

/// The other name in the collection that a folding file system takes for `name`; `None` where there is none.
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
