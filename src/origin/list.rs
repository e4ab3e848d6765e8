//! What is in a collection: names, kinds, sizes, times, and whether that is all.
//!
//! A mirror believes absence only when a listing says that it is complete, so `complete` is never said lightly: a
//! directory can change while it is read, and POSIX lets such a reading miss what was there all the time. The names
//! are read again until two readings agree and the directory's times have not moved; where they never do, the
//! listing says that it is not complete.
//!
//! What cannot be named (`path.rs`) or is hidden is no member; names that are no UTF-8 are counted as `skipped`.

use super::error::OriginError;
use super::path::{self, TreePath};
use super::tags::{Digest, Tags};
use super::tree::{Stamp, Tree, stamp};
use rustix::fs::{AtFlags, Dir, FileType, statat};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// How often a directory that changes is read.
const MAX_READINGS: usize = 6;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
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
    pub kind: Kind,
    /// Its state; of a link, that of what the link leads to.
    pub stamp: Stamp,
    /// Whether it is a symbolic link.
    pub link: bool,
    /// The digest of its bytes, where that is known.
    pub digest: Option<Digest>,
}

/// All of a collection.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The members, in the order of their names' bytes.
    pub members: Vec<Member>,
    /// Whether nothing was there, at one moment, that is not listed or skipped.
    pub complete: bool,
    /// How many names are no UTF-8.
    pub skipped: usize,
}

/// Reads the open collection at `path`.
///
/// # Errors
/// Where the disk does not give it.
pub fn list(tree: &Tree, tags: &Tags, path: &TreePath, handle: &OwnedFd) -> Result<Listing, OriginError> {
    let path = path.with_slash();
    for _ in 0..MAX_READINGS {
        let before = stamp(handle)?;
        let (names, skipped) = names(tree, &path, handle)?;
        let members = names
            .iter()
            .filter_map(|name| member(tree, tags, &path, handle, name).transpose());
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let same = self::names(tree, &path, handle)?.0 == names && stamp(handle)? == before;
        if same {
            return Ok(Listing {
                members,
                complete: true,
                skipped,
            });
        }
    }
    let (names, skipped) = names(tree, &path, handle)?;
    let members = names
        .iter()
        .filter_map(|name| member(tree, tags, &path, handle, name).transpose());
    Ok(Listing {
        members: members.collect::<Result<Vec<_>, _>>()?,
        complete: false,
        skipped,
    })
}

/// The names that are served, and how many are no UTF-8.
fn names(tree: &Tree, path: &TreePath, handle: &OwnedFd) -> Result<(BTreeSet<String>, usize), OriginError> {
    let failed = OriginError::met("read a directory");
    // A handle of its own: readings at once must not share a position.
    let mut names = BTreeSet::new();
    let mut skipped = 0;
    for entry in Dir::read_from(handle).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name();
        match name.to_str() {
            Ok("." | "..") => {}
            Ok(name) if !path::can_be_named(name) => skipped += 1,
            Ok(name) if tree.serves_member(path, name) => {
                names.insert(name.to_owned());
            }
            Ok(_) => {}
            Err(_) => skipped += 1,
        }
    }
    Ok((names, skipped))
}

/// The member of that name; `None` where it is gone, or nothing that is served.
fn member(
    tree: &Tree,
    tags: &Tags,
    path: &TreePath,
    handle: &OwnedFd,
    name: &str,
) -> Result<Option<Member>, OriginError> {
    let stat = match statat(handle, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(OriginError::met("inspect a file")(errno)),
    };
    let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let stat = match link {
        // What leads nowhere, or out of the tree, is not there for a client either.
        true => match tree.inspect(&path.child(name)) {
            Ok(stat) => stat,
            Err(_) => return Ok(None),
        },
        false => stat,
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Collection,
        _ => return Ok(None),
    };
    let stamp = Stamp::of(&stat);
    Ok(Some(Member {
        name: name.to_owned(),
        kind,
        stamp,
        link,
        digest: (kind == Kind::File).then(|| tags.known(&stamp)).flatten(),
    }))
}

impl Listing {
    /// A digest of what it says, the same for all of its pages and forms.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for member in &self.members {
            let Member {
                name,
                kind,
                stamp,
                link,
                ..
            } = member;
            let text = format!("{name}\0{kind:?}\0{}\0{}\0{link}\0", stamp.size, stamp.modified);
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// The other name in the collection that a folding file system takes for `name`; `None` where there is none.
pub(super) fn twin(handle: &OwnedFd, name: &str) -> Result<Option<String>, OriginError> {
    let failed = OriginError::met("read a directory");
    let folded = path::folded(name);
    let mut found = None;
    for entry in Dir::read_from(handle).map_err(&failed)? {
        match entry.map_err(&failed)?.file_name().to_str() {
            Ok(other) if other == name => return Ok(None),
            Ok(other) if path::folded(other) == folded => found = Some(other.to_owned()),
            _ => {}
        }
    }
    Ok(found)
}
