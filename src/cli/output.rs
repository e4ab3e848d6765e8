//! Standard output, and text that is safe on a terminal.
//!
//! A reader that is gone (`millpond ls | head`) is no failure: from then on lines go nowhere. Any other
//! refusal, such as a full disk, is remembered and told at the end: half a list must not look whole.

use super::failure::Failure;
use std::io::{self, ErrorKind, Write};

/// Lines to standard output, each written out at once.
pub(super) struct Output {
    out: Box<dyn Write>,
    refused: Option<io::Error>,
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self::to(io::stdout())
    }

    pub(super) fn to(out: impl Write + 'static) -> Self {
        Self {
            out: Box::new(out),
            refused: None,
        }
    }

    /// Writes a line, unless an earlier one was refused.
    pub(super) fn line(&mut self, text: &str) {
        if self.refused.is_none() {
            self.refused = writeln!(self.out, "{text}").err();
        }
    }

    /// Whether lines go nowhere any more: then there is no use in asking for more of them.
    pub(super) fn is_closed(&self) -> bool {
        self.refused.is_some()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// Where a line was refused by other than a reader that has gone.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let refused = self.refused.or_else(|| self.out.flush().err());
        match refused {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
            _ => Ok(()),
        }
    }
}

/// `text` with everything written out that would steer a terminal or turn the line around.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Control characters, and those that are invisible or change the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_failure_and_a_full_disk_is() {
        for (kind, is_failure) in [(ErrorKind::BrokenPipe, false), (ErrorKind::StorageFull, true)] {
            let mut output = Output::to(Refusing(kind));
            assert!(!output.is_closed());
            output.line("one");
            output.line("two");
            assert!(output.is_closed());
            assert_eq!(output.finish().is_err(), is_failure, "{kind}");
        }
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(plain("http://h/a\x1b[2Jb\r\n"), "http://h/a\\u{1b}[2Jb\\u{d}\\u{a}");
        assert_eq!(plain("\u{9b}31m\u{202e}gpj.exe"), "\\u{9b}31m\\u{202e}gpj.exe");
        assert_eq!(plain("http://h/%C3%A9?a=b&c"), "http://h/%C3%A9?a=b&c");
    }
}
