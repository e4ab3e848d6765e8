//! The rule by which a request selects one of several replies under one URL (RFC 9111 §4.1); the look-up is in
//! `proxy::cache::variant`.
//!
//! Values are compared in one spelling, so that clients that mean the same share a reply: lines of a field are
//! one list, white space around commas does not count, and the members of `Accept`, `Accept-Language` and
//! `Accept-Charset` stand in the order of their weights, in lower case.

use super::fields::Fields;

/// Fields of a request that select nothing here: millpond asks every upstream for `identity`, and answers ranges
/// and conditions itself.
const OURS: &[&str] = &[
    "accept-encoding",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
];

/// The fields of `request` that a reply with these fields varies by: names in lower case and in their order,
/// with values in one spelling.
pub fn selecting(reply: &(impl Fields + ?Sized), request: &(impl Fields + ?Sized)) -> Vec<(String, String)> {
    let mut names: Vec<String> = reply
        .lines("vary")
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty() && name != "*" && !OURS.contains(&name.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    let values = names.iter().map(|name| one_spelling(name, request)).collect::<Vec<_>>();
    names.into_iter().zip(values).collect()
}

/// The most fields that a reply may vary by. A judgement: browsers send some twenty.
const MAX_NAMES: usize = 32;

/// Whether no request but the one that it answers selects the reply: by `*`, or by so many fields that no two requests
/// agree in all of them.
pub(super) fn varies_by_all(reply: &(impl Fields + ?Sized)) -> bool {
    let mut names = 0;
    reply.lines("vary").flat_map(|line| line.split(',')).any(|name| {
        names += usize::from(!name.trim().is_empty());
        name.trim() == "*" || names > MAX_NAMES
    })
}

/// Whether the request selects the reply that was selected by these fields.
pub fn selects(
    selected_by: &[(String, String)],
    reply: &(impl Fields + ?Sized),
    request: &(impl Fields + ?Sized),
) -> bool {
    selected_by.iter().all(|(name, value)| {
        let asked = one_spelling(name, request);
        asked == *value || (name == "accept-language" && is_first_choice(reply, &asked))
    })
}

/// Whether the reply is in the one language that the request would have before all others: no other reply could
/// suit it better.
fn is_first_choice(reply: &(impl Fields + ?Sized), asked: &str) -> bool {
    let mut choices = asked.trim_start_matches('=').split(',');
    let Some(first) = choices.next().filter(|first| !first.is_empty()) else {
        return false;
    };
    let alone = choices.next().is_none_or(|second| weight(second) < weight(first));
    let language = first.split(';').next().unwrap_or_default();
    alone
        && weight(first) > 0
        && reply
            .first("content-language")
            .is_some_and(|is| is.eq_ignore_ascii_case(language))
}

/// The name of the variant that the request selects, among those that vary as `selected_by` does.
///
/// `family` tells the leader's generation, and how often it was invalidated.
pub fn variant_name(family: (u64, u32), selected_by: &[(String, String)], request: &(impl Fields + ?Sized)) -> String {
    let mut name = format!("{:x}-{}", family.0, family.1);
    for (field, _) in selected_by {
        let value = one_spelling(field, request);
        // The length keeps two fields apart, whatever is in them.
        name.push_str(&format!(";{field}:{}:{value}", value.len()));
    }
    name
}

/// A field's value in one spelling; empty where there is no such field, which is another thing than an
/// empty one.
fn one_spelling(name: &str, request: &(impl Fields + ?Sized)) -> String {
    if !request.has(name) {
        return String::new();
    }
    let weighted = matches!(name, "accept" | "accept-language" | "accept-charset");
    let mut members: Vec<String> = request
        .lines(name)
        .flat_map(|line| match name {
            // Its members are divided in another way, and their order counts.
            "cookie" => vec![line],
            _ => line.split(',').collect(),
        })
        .map(|member| match weighted {
            true => member.split_whitespace().collect::<String>().to_ascii_lowercase(),
            false => member.trim().to_owned(),
        })
        .filter(|member| !member.is_empty())
        .collect();
    if weighted {
        for member in &mut members {
            if let Some((bare, _)) = member.rsplit_once(";q=").filter(|_| weight(member) == 1000) {
                *member = bare.to_owned();
            }
        }
        members.sort_by(|left, right| weight(right).cmp(&weight(left)).then_with(|| left.cmp(right)));
        members.dedup();
    }
    format!("={}", members.join(","))
}

/// The weight of a member, in thousandths (RFC 9110 §12.4.2); 1000 where it says none that is one.
fn weight(member: &str) -> u32 {
    let Some((_, text)) = member.rsplit_once(";q=") else {
        return 1000;
    };
    match text.parse::<f64>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u32,
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAYS_NOTHING: &[(&str, &str)] = &[];

    fn chosen(vary: &str, request: &[(&str, &str)]) -> Vec<(String, String)> {
        selecting(&[("vary", vary)][..], request)
    }

    fn same(vary: &str, left: &[(&str, &str)], right: &[(&str, &str)]) -> bool {
        let (selected, other) = (chosen(vary, left), chosen(vary, right));
        assert_eq!(selected == other, selects(&selected, SAYS_NOTHING, right));
        selected == other
    }

    #[test]
    fn a_reply_that_names_more_than_32_fields_varies_by_all() {
        let names = |count: usize| {
            (0..count)
                .map(|name| format!("x-{name}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert!(!varies_by_all(&[("vary", names(32).as_str())][..]));
        assert!(varies_by_all(&[("vary", names(33).as_str())][..]));
        assert!(varies_by_all(
            &[("vary", names(20).as_str()), ("vary", names(20).as_str())][..]
        ));
        assert!(varies_by_all(&[("vary", "accept, *")][..]));
        assert!(!varies_by_all(&[("vary", "accept,,,")][..]));
    }

    #[test]
    fn a_reply_is_selected_by_the_fields_it_names() {
        assert!(same(
            "accept",
            &[("accept", "a/b"), ("x", "1")],
            &[("accept", "a/b"), ("x", "2")]
        ));
        assert!(!same("accept, x", &[("x", "1")], &[("x", "2")]));
        assert!(!same("x", &[("x", "1")], &[]));
        assert!(!same("x", &[("x", "")], &[]));
        assert!(same("X , ,accept", &[], &[]));
        assert!(selects(&[], SAYS_NOTHING, &[("x", "1")][..]));
    }

    #[test]
    fn equivalent_field_values_select_the_same_variant() {
        let language = |left: &str, right: &str| {
            same(
                "accept-language",
                &[("accept-language", left)],
                &[("accept-language", right)],
            )
        };
        assert!(language("en, de", "DE,en"));
        assert!(language("de;q=0.5, en", "en;q=1 , de ; q=0.5"));
        assert!(!language("de;q=0.5, en", "en;q=0.5, de"));
        assert!(!language("de", "de, en"));
        assert!(same("x", &[("x", "1"), ("x", "2")], &[("x", "1,2")]));
        assert!(!same("x", &[("x", "1, 2")], &[("x", "2, 1")]));
        assert!(!same("cookie", &[("cookie", "a=1; b=2")], &[("cookie", "b=2; a=1")]));
    }

    #[test]
    fn fields_that_millpond_sets_itself_select_no_variant() {
        for name in [
            "accept-encoding",
            "range",
            "if-range",
            "if-match",
            "if-none-match",
            "if-modified-since",
            "if-unmodified-since",
        ] {
            assert!(same(name, &[(name, "a")], &[]), "{name}");
        }
        assert!(!same("accept", &[("accept", "a")], &[]), "any other field does");
    }

    #[test]
    fn distinct_selecting_fields_give_distinct_variant_names() {
        let by = [("a".to_owned(), String::new()), ("b".to_owned(), String::new())];
        let name = |request: &[(&str, &str)]| variant_name((7, 0), &by, request);
        let names = [
            name(&[]),
            name(&[("a", "1")]),
            name(&[("b", "1")]),
            name(&[("a", ";b:2:=1")]),
            name(&[("a", "1"), ("b", "1")]),
        ];
        for (index, left) in names.iter().enumerate() {
            assert!(names[index + 1..].iter().all(|right| left != right), "{names:?}");
        }
        let nothing: &[(&str, &str)] = &[];
        assert_ne!(variant_name((8, 0), &by, nothing), names[0]);
        assert_ne!(variant_name((7, 1), &by, nothing), names[0]);
    }

    #[test]
    fn a_variant_in_the_sole_preferred_language_is_selected() {
        let selected = chosen("accept-language", &[("accept-language", "en, de")]);
        let suits = |asked: &str, is: &str| {
            let reply = [("content-language", is)];
            selects(&selected, &reply[..], &[("accept-language", asked)][..])
        };
        assert!(suits("fr;q=0.5, de;q=1.0", "de"));
        assert!(suits("DE", "de"));
        assert!(!suits("fr, de;q=0.5", "de"), "there may be one in French");
        assert!(
            !suits("fr, de", "de"),
            "either would do, and which comes the upstream says"
        );
        assert!(!suits("de;q=0", "de"));
        assert!(!suits("", "de"));
    }

    #[test]
    fn fuzzed_requests_select_the_reply_that_they_were_given() {
        crate::fuzzing::fuzz("vary", |field| {
            let field = String::from_utf8_lossy(field);
            let reply = [("vary", &*field)];
            let request = [("accept-language", &*field), ("x-a", &*field), ("cookie", "a=1")];
            let selected_by = selecting(&reply[..], &request[..]);
            assert!(selects(&selected_by, &reply[..], &request[..]));
            let _ = (
                varies_by_all(&reply[..]),
                variant_name((1, 2), &selected_by, &request[..]),
            );
        });
    }
}
