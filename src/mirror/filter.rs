//! Names that a mirror does not keep. Pure.
//!
//! A pattern is of one name, whichever collection it is in; `*` stands for any letters, none included. What is left out is
//! in the index all the same: a listing of the mirror has the name, and says that it is not here.

/// Whether one of the patterns is that of the name.
pub(super) fn is_excluded(name: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        // The first place leaves most for what follows.
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, name, wanted) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*.tmp", "x.tmp", true),
            ("*.tmp", ".tmp", true),
            ("*.tmp", "x.tmpl", false),
            (".*", ".git", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("*é*", "café au lait", true),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
    }
}
