//! Files whose bytes cannot change while they are sent.
//!
//! A socket holds the pages of a file that is sent by sendfile(2), not a copy. Of a file that may be written to, pages
//! may change after the answer has begun (docs/decisions/0013). Three kinds of files cannot be written to by anybody,
//! with whatever rights: those that fs-verity seals, those with the flag of `chattr +i` (which the kernel heeds also
//! where a file was opened for writing before), and those on a file system that has no way to write: squashfs, EROFS,
//! ISO 9660. A mount that is merely read-only is none of these: the file system may be mounted elsewhere, and be written
//! to there.

use rustix::fs::{IFlags, fstatfs, ioctl_getflags};
use std::fs::File;

/// `FS_VERITY_FL` of `linux/fs.h`: the file is sealed, and each read of it is checked.
const VERITY: IFlags = IFlags::from_bits_retain(0x0010_0000);

/// The magic numbers of file systems that cannot be written to (`linux/magic.h`): squashfs, EROFS, ISO 9660.
const READ_ONLY_KINDS: [u64; 3] = [0x7371_7368, 0xE0F5_E1E2, 0x9660];

/// Whether the bytes of an open file cannot change. Two questions to the kernel, for once an answer: a file system
/// that does not answer makes the caller wait.
pub fn has_fixed_bytes(file: &File) -> bool {
    ioctl_getflags(file).is_ok_and(is_sealed) || fstatfs(file).is_ok_and(|fs| is_read_only_kind(fs.f_type as u64))
}

fn is_sealed(flags: IFlags) -> bool {
    flags.intersects(VERITY | IFlags::IMMUTABLE)
}

fn is_read_only_kind(magic: u64) -> bool {
    READ_ONLY_KINDS.contains(&magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_files_and_read_only_kinds_are_fixed_and_others_are_not() {
        assert!(is_sealed(IFlags::IMMUTABLE) && is_sealed(VERITY | IFlags::NOATIME));
        assert!(!is_sealed(IFlags::APPEND) && !is_sealed(IFlags::empty()));
        // ext4, and tmpfs.
        assert!(!is_read_only_kind(0xEF53) && !is_read_only_kind(0x0102_1994));
        assert!(is_read_only_kind(0x9660));
    }

    #[test]
    fn a_file_that_was_just_written_is_not_fixed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File::create(dir.path().join("film")).expect("a file");
        assert!(!has_fixed_bytes(&file));
    }
}
