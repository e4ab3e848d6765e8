//! What can go wrong in a tree, and whose side it is on.

use super::mounts::MountPoint;
use rustix::io::Errno;
use std::io;

/// Why a tree does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Nothing is there, or nothing that is served.
    #[error("there is nothing of that name")]
    Absent,
    /// The operating system keeps it from us.
    #[error("the server's user may not do that in this directory; its permissions say who may")]
    Denied,
    /// The collection that it would be in is not there.
    #[error("the collection that it would be in does not exist; make it with MKCOL first")]
    NoParent,
    /// What it would be in is a file.
    #[error("what it would be in is a file, not a collection")]
    ParentIsFile,
    /// A collection is there.
    #[error("a collection of that name is there")]
    IsCollection,
    /// Something is there already.
    #[error("something of that name is there already")]
    Exists,
    /// The collection has members.
    #[error("the collection is not empty; remove what is in it first (names that begin with a dot may be hidden)")]
    NotEmpty,
    /// A symbolic link is there.
    #[error("a symbolic link of that name is there, and links are not followed for writes")]
    Link,
    /// A device, a socket or a pipe is there.
    #[error("what is there is neither a file nor a collection")]
    Special,
    /// The file system takes two spellings for one name.
    #[error("the file system takes that name and {0:?}, which is there, for one")]
    NameCollision(String),
    /// The path is not one that is served.
    #[error("names that begin with a dot, and millpond's own, are not served here; --hidden serves the former")]
    NotServed,
    /// Portable names are demanded.
    #[error("the name {0}; choose another")]
    Unportable(&'static str),
    /// The root was to be removed or replaced.
    #[error("the top of the tree cannot be removed, moved or replaced")]
    Root,
    /// Another file system is in between, and something that cannot be copied to it.
    #[error(
        "that is on another file system, to which a link, a pipe, a socket or a device cannot be moved by itself; make it anew there and remove it here"
    )]
    CrossDevice,
    /// Something is mounted there, or beneath it.
    #[error("another file system is mounted there, which cannot be removed or moved; remove what is in it instead")]
    Mounted,
    /// The directory is not where it was, or is another.
    #[error("the directory is not there: it was unmounted, removed or replaced; see the server's log")]
    RootGone,
    /// The file system does not answer.
    #[error("the file system that this is on does not answer; try again later")]
    MountHangs,
    /// A link leads to another file system, whose turn has to be waited for.
    #[error("a link leads to another file system, which may not be waited for here")]
    LinkToMount(MountPoint),
    /// What is to be placed lies where no rename(2) gets it from.
    #[error("the file system does not let a file be put in its place by a rename; try again")]
    NeedsRestaging,
    /// A condition names the bytes of a file that has to be read first.
    #[error("what is there has changed while a condition was evaluated; try again")]
    TagUnknown,
    /// Another process writes to the directory.
    #[error("another millpond writes to this directory; stop it first")]
    InUse,
    /// What was sent is not what its digest says.
    #[error("the bytes that came are not those of their {0}; send them again")]
    WrongDigest(&'static str),
    /// A collection was to be moved into itself.
    #[error("a collection cannot be moved into itself")]
    IntoItself,
    /// A condition of the request does not hold.
    #[error("a condition of the request does not hold: what is there is not what it names")]
    PreconditionFailed,
    /// The disk is full, or a quota is.
    #[error("there is no room left on the server's disk")]
    NoRoom,
    /// The file system takes no writes.
    #[error("the directory is on a file system that takes no writes")]
    ReadOnly,
    /// The file system does not take such a name.
    #[error("the server's file system does not take that name")]
    BadName,
    /// What is there changes faster than it can be read.
    #[error("what is there is being changed; try again")]
    ChangedMeanwhile,
    /// There is more to tell than one answer holds.
    #[error(
        "the collection is too large to be described at once; name fewer properties, or ask for JSON, which is paged"
    )]
    TooLong,
    /// More uploads are under way than are kept.
    #[error("too many uploads are under way; finish or cancel some")]
    TooManyUploads,
    /// Anything else that the operating system reports.
    #[error("could not {doing}")]
    Disk {
        /// The operation, as in "could not read the directory".
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl DirectoryError {
    /// What an error of the operating system means, met while `doing` something.
    pub(super) fn from_errno(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            // ELOOP: a link that leads in circles. ENXIO: a socket, which cannot be opened.
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Absent,
            Errno::XDEV => Self::CrossDevice,
            Errno::BUSY => Self::Mounted,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::NoRoom,
            Errno::ROFS => Self::ReadOnly,
            Errno::EXIST => Self::Exists,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::ISDIR => Self::IsCollection,
            Errno::NAMETOOLONG | Errno::ILSEQ => Self::BadName,
            errno => Self::Disk {
                doing,
                source: errno.into(),
            },
        }
    }

    /// The same for errors of the standard library.
    pub(super) fn from_io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match Errno::from_io_error(&source) {
            Some(errno) => Self::from_errno(doing)(errno),
            None => Self::Disk { doing, source },
        }
    }
}
