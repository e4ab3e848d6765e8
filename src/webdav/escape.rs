//! Text within XML or HTML: the five characters that could end it are written as references.
//!
//! File names and queries come from anybody, so text is put into markup through [`Escaped`] only. The references are
//! those that XML and HTML share, so one type does for both. Values of dead properties are inserted without it:
//! `request_xml.rs` has written them as XML already.

use std::fmt::Write as _;

/// Text within markup or a quoted attribute.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_name_is_text() {
        assert_eq!(Escaped("<b>\"&'").to_string(), "&lt;b&gt;&quot;&amp;&#39;");
    }
}
