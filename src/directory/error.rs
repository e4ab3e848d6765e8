//! Errors of the directory: what the operating system, a name or a precondition stands against.
//!
//! The texts are for clients, without local paths, and say what to do where something can be done. `webdav` gives each a
//! status; [`DirectoryError::Disk`] alone is the server's own fault, and keeps its cause for the log. `LinkToMount`,
//! `NeedsRestaging` and `TagUnknown` tell the caller what to do before the next attempt; a client sees them only where the
//! attempts run out.

use super::mounts::MountPoint;
use rustix::io::Errno;
use std::io;

/// The reason for which the directory does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// No entry has the name, or none that is served.
    #[error("there is nothing of that name")]
    Absent,
    /// The permissions of the directory deny it to the server's user.
    #[error("the server's user may not do that in this directory; its permissions say who may")]
    Denied,
    /// The parent collection does not exist.
    #[error("the collection that it would be in does not exist; make it with MKCOL first")]
    NoParent,
    /// The parent is a file.
    #[error("what it would be in is a file, not a collection")]
    ParentIsFile,
    /// A collection has the name.
    #[error("a collection of that name is there")]
    IsCollection,
    /// An entry has the name already.
    #[error("something of that name is there already")]
    Exists,
    /// The collection has members.
    #[error("the collection is not empty; remove what is in it first (names that begin with a dot may be hidden)")]
    NotEmpty,
    /// A symbolic link has the name, and writes follow none.
    #[error("a symbolic link of that name is there, and links are not followed for writes")]
    Link,
    /// A device, a socket or a pipe has the name.
    #[error("what is there is neither a file nor a collection")]
    Special,
    /// Another spelling is there that the file system takes for the same name.
    #[error("the file system takes that name and {0:?}, which is there, for one")]
    NameCollision(String),
    /// The name is reserved by millpond.
    #[error("names that begin with a dot, and millpond's own, are not served here; --hidden serves the former")]
    NotServed,
    /// The name is not portable, and portable names are demanded.
    #[error("the name {0}; choose another")]
    Unportable(&'static str),
    /// The root cannot be removed, moved or replaced.
    #[error("the top of the tree cannot be removed, moved or replaced")]
    Root,
    /// A rename(2) would cross file systems (`EXDEV`): MOVE copies then, unless the entry is one that cannot be
    /// copied.
    #[error(
        "that is on another file system, to which a link, a pipe, a socket or a device cannot be moved by itself; make it anew there and remove it here"
    )]
    CrossDevice,
    /// A file system is mounted at the path or beneath it.
    #[error("another file system is mounted there, which cannot be removed or moved; remove what is in it instead")]
    Mounted,
    /// The root is not where it was, or is another directory.
    #[error("the directory is not there: it was unmounted, removed or replaced; see the server's log")]
    RootGone,
    /// The mounted file system does not answer in time.
    #[error("the file system that this is on does not answer; try again later")]
    MountHangs,
    /// A link leads to another mount, whose permit the caller must hold: to be called again with it.
    #[error("a link leads to another file system, which may not be waited for here")]
    LinkToMount(MountPoint),
    /// No rename(2) reaches the place from where the body is staged: to be copied beside its place, and called again.
    #[error("the file system does not let a file be put in its place by a rename; try again")]
    NeedsRestaging,
    /// A precondition names the tag of a file that has to be read first: to be read without a lock, and called again.
    #[error("what is there has changed while a condition was evaluated; try again")]
    TagUnknown,
    /// Another process holds the lock on `.millpond`.
    #[error("another millpond writes to this directory; stop it first")]
    InUse,
    /// The body does not have the digest that the client claims.
    #[error("the bytes that came are not those of their {0}; send them again")]
    WrongDigest(&'static str),
    /// The destination of a MOVE or COPY is within its source, or the other way round.
    #[error("a collection cannot be moved into itself")]
    IntoItself,
    /// A precondition of the request is false.
    #[error("a condition of the request does not hold: what is there is not what it names")]
    PreconditionFailed,
    /// The disk or a quota is full.
    #[error("there is no room left on the server's disk")]
    NoRoom,
    /// The file system is mounted read-only, or the directory is served so.
    #[error("the directory is on a file system that takes no writes")]
    ReadOnly,
    /// The file system does not take the name.
    #[error("the server's file system does not take that name")]
    BadName,
    /// The entry changes faster than it can be read.
    #[error("what is there is being changed; try again")]
    ChangedMeanwhile,
    /// The answer would be longer than one may be.
    #[error(
        "the collection is too large to be described at once; name fewer properties, or ask for JSON, which is paged"
    )]
    TooLong,
    /// The number of uploads under way is at its limit.
    #[error("too many uploads are under way; finish or cancel some")]
    TooManyUploads,
    /// Any other error of the operating system.
    #[error("could not {doing}")]
    Disk {
        /// The operation, as in "could not read the directory".
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl DirectoryError {
    /// The meaning of an error of the operating system, met while `doing` something.
    pub(super) fn from_errno(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            // `ELOOP`: a link that leads in circles. `ENXIO`: a socket, which cannot be opened.
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

    /// The same for an error of the standard library.
    pub(super) fn from_io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match Errno::from_io_error(&source) {
            Some(errno) => Self::from_errno(doing)(errno),
            None => Self::Disk { doing, source },
        }
    }
}
