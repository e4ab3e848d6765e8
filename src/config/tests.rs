//! Configurations, read from layers as an operator writes them.
//!
//! Mistakes are looked at by the words that name the setting and the mend. The rule that no setting is ignored is
//! tested over the whole table: each is refused where the part of the server that it needs is missing, and taken where
//! it is there.

use super::*;
use std::path::Path;

fn layers(flags: &[(&str, &str)], variables: &[(&str, &str)], toml: &str) -> Layers {
    let mut layers = Layers::new();
    layers.add_flags(
        flags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])),
    );
    layers.add_environment(
        variables
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    );
    layers.add_toml(toml, "pond.toml");
    layers
}

fn mistakes(flags: &[(&str, &str)], toml: &str) -> Vec<String> {
    let read = Config::read(&layers(flags, &[], toml));
    read.map_or_else(|mistakes| mistakes.0, |_| Vec::new())
}

#[test]
fn flags_outrank_variables_and_variables_the_file() {
    let toml = "grace = \"1s\"\nhold_limit = \"1s\"\nheader_wait = \"1s\"\ndata = \"/d\"";
    let variables = [
        ("MILLPOND_GRACE", "2s"),
        ("MILLPOND_HOLD_LIMIT", "2s"),
        ("PATH", "/bin"),
    ];
    let config = Config::read(&layers(&[("grace", "3s")], &variables, toml)).expect("valid");
    let seconds = [config.grace, config.hold_limit, config.header_wait].map(|time| time.as_secs());
    assert_eq!(seconds, [3, 2, 1]);
}

#[test]
fn all_mistakes_are_reported_at_once_with_key_and_unit() {
    let flags = [("listen", "nowhere"), ("quota", "50 bananas"), ("data", "/d")];
    let variables = [("MILLPOND_GRACE", "30")];
    let toml = "speed = 11\ndelivery = \"later\"\nupstream = [\"ftp://h/\", \"http=http://h/\"]\ndirectory = \"d=/proc/self/status\"\n";
    let mistakes = Config::read(&layers(&flags, &variables, toml)).expect_err("invalid").0;
    for (key, mend) in [
        ("--listen", "port"),
        ("--quota", "50GiB"),
        ("MILLPOND_GRACE", "unit"),
        ("speed in the configuration file", "no such setting"),
        ("delivery in the configuration file", "follow or capped"),
        ("upstream in", "http://"),
        ("upstream in", "taken"),
        ("directory in", "not a directory"),
    ] {
        assert!(
            mistakes.iter().any(|line| line.contains(key) && line.contains(mend)),
            "{key}: {mistakes:#?}"
        );
    }
    assert_eq!(mistakes.len(), 8, "{mistakes:#?}");
}

#[test]
fn an_unknown_variable_is_a_warning_and_no_mistake() {
    let variables = [
        ("MILLPOND_PORT", "tcp://10.0.0.1:80"),
        ("MILLPOND_GRACE", "2s"),
        ("MILLPOND_PORTABLE", "true"),
        ("HOME", "/"),
    ];
    let layers = layers(&[("data", "/d")], &variables, "");
    let config = Config::read(&layers).expect("valid");
    assert_eq!(config.grace.as_secs(), 2);
    let warnings = config.warnings(&layers);
    assert!(
        warnings.len() == 2 && warnings[0].contains("MILLPOND_PORT:") && warnings[1].contains("MILLPOND_PORTABLE"),
        "{warnings:?}"
    );
}

#[test]
fn upstreams_are_named_or_not_and_their_queries_are_no_names() {
    let toml = "data = \"/d\"\nupstream = [\"http://h/a?b=c\", \"films=http://h/x\"]\n[upstreams.shows]\nurl = \"http://s\"\ndelivery = \"capped\"";
    let mistakes = mistakes(&[], toml);
    assert!(mistakes.len() == 1 && mistakes[0].contains("query"), "{mistakes:#?}");
    let config = Config::read(&layers(&[], &[], &toml.replace("?b=c", ""))).expect("valid");
    let names: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| upstream.name.as_deref())
        .collect();
    assert_eq!(names, [None, Some("films"), Some("shows")]);
    assert_eq!(config.upstreams[0].url.path(), "/a/");
    assert_eq!(config.upstreams[2].delivery, Some(Delivery::Capped));
}

#[test]
fn any_url_is_served_on_loopback_only() {
    let any_url = |listen| {
        let flags = [("listen", listen), ("data", "/d"), ("upstream", "http://h/")];
        Config::read(&layers(&flags, &[], "")).expect("valid").allows_any_url()
    };
    assert!(any_url("127.0.0.1:0") && any_url("[::1]:0") && any_url("127.0.0.1:0 [::1]:0"));
    assert!(!any_url("0.0.0.0:0") && !any_url("127.0.0.1:0 0.0.0.0:0") && !any_url("unix:/s"));
}

#[test]
fn a_directory_has_a_name_or_none_and_rules_of_its_own() {
    let toml = "data = \"/d\"\nlargest_upload = \"1GiB\"\ndirectory = [\"films=/f,writable\", \"/r\"]\n[directories.music]\npath = \"/m\"\nwritable = true\nlargest_upload = \"none\"\nportable = true";
    let config = Config::read(&layers(&[], &[], toml)).expect("valid");
    let told: Vec<_> = config
        .directories
        .iter()
        .map(|directory| {
            let name = directory.name.as_deref().unwrap_or_default();
            (
                name,
                directory.root.to_str(),
                directory.writable,
                directory.largest_upload,
                directory.portable,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("films", Some("/f"), true, Some(1 << 30), false),
            ("", Some("/r"), false, Some(1 << 30), false),
            ("music", Some("/m"), true, None, true),
        ]
    );
    for (toml, part) in [
        (
            "directory = [\"a=/f\"]\nupstream = [\"a=http://h/\"]",
            "\"a\" is there twice",
        ),
        ("directory = [\"/f\"]\nupstream = [\"http://h/\"]", "without a name"),
        ("[directories.a]\nhidden = true", "no directory is named"),
        ("[directories.a]\npath = \"/f\"\nportable = true", "read-only"),
        ("[directories.a]\npath = \"/f\"\nspeed = 1", "no such setting"),
    ] {
        let mistakes = mistakes(&[("data", "/d")], toml);
        assert!(
            mistakes.len() == 1 && mistakes[0].contains(part),
            "{toml}: {mistakes:#?}"
        );
    }
}

#[test]
fn a_setting_without_effect_is_refused_for_every_entry_of_the_table() {
    let value = |setting: &Setting| match (setting.key, setting.default) {
        ("ignore_query" | "stream_types" | "names" | "credentials", _) => "a".to_owned(),
        ("detach", _) => "/a".to_owned(),
        ("private_networks", _) => "192.0.2.0/24".to_owned(),
        (_, default) => default.to_owned(),
    };
    let bare = "data = \"/d\"\nad_hoc = false\ndirectory = \"/r\"\n";
    let without_directories = "data = \"/d\"\n";
    let whole = "data = \"/d\"\nupstream = [\"u=http://h/\"]\nmirror = \"u/a\"\ndirectory = [\"w=/w,writable\"]\n";
    let mut refused = 0;
    for setting in settings().filter(|setting| {
        !matches!(
            setting.key,
            "data" | "ad_hoc" | "upstream" | "directory" | "mirror" | "trusted_proxies"
        )
    }) {
        let line = format!("{} = {:?}\n", setting.key, value(&setting));
        let here = mistakes(&[], &format!("{whole}{line}"));
        assert!(here.is_empty(), "{here:#?}");
        let lacking = match setting.needs {
            Needs::Cache => bare,
            _ => without_directories,
        };
        let there = mistakes(&[], &format!("{lacking}{line}"));
        match setting.needs {
            Needs::Nothing => assert!(there.is_empty(), "{there:#?}"),
            _ => {
                refused += 1;
                let told = there
                    .iter()
                    .filter(|line| line.contains("no effect") && line.contains(setting.key));
                assert_eq!(told.count(), 1, "{}: {there:#?}", setting.key);
            }
        }
    }
    assert_eq!(refused, 47, "all but those that every server has");
}

#[test]
fn a_setting_for_writing_is_refused_where_every_directory_is_read_only() {
    let toml =
        "data = \"/d\"\ndirectory = \"/f\"\nad_hoc = false\nportable = true\ndemand_conditions = true\nhidden = true";
    let mistakes = mistakes(&[], toml);
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
    assert!(mistakes.iter().all(|line| !line.contains("hidden")), "{mistakes:#?}");
}

#[test]
fn an_operator_is_told_who_may_change_a_writable_directory() {
    let warnings = |flags: &[(&str, &str)]| {
        let layers = layers(flags, &[], "");
        Config::read(&layers).expect("valid").warnings(&layers)
    };
    let (writable, data, far) = (
        ("directory", "/w,writable"),
        ("data", "/d"),
        ("listen", "127.0.0.1:0 0.0.0.0:0"),
    );
    let nobody = warnings(&[writable, data]);
    assert!(
        nobody.len() == 1 && nobody[0].contains("--open") && nobody[0].contains("--tokens"),
        "{nobody:?}"
    );
    let all = warnings(&[writable, data, far, ("open", "true")]);
    assert!(all.len() == 1 && all[0].contains("0.0.0.0:0"), "{all:?}");
    assert!(warnings(&[writable, data, ("open", "true")]).is_empty());
    assert!(warnings(&[writable, data, far, ("tokens", "/t")]).is_empty());
    assert!(warnings(&[("directory", "/r"), data, far]).is_empty());
}

#[test]
fn an_operator_is_told_who_reads_by_an_upstreams_credential() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("credential");
    std::fs::write(&file, "Bearer a").expect("written");
    let toml = format!("data = \"/d\"\n[upstreams.m]\nurl = \"http://h/\"\nauthorization_file = {file:?}");
    let layers = layers(&[], &[], &toml);
    let warnings = Config::read(&layers).expect("valid").warnings(&layers);
    assert!(warnings.iter().any(|line| line.contains("beneath /m/")), "{warnings:?}");
}

#[test]
fn a_mirror_is_of_an_upstream_that_is_there_and_its_rules_need_one() {
    for (toml, part) in [
        ("mirror = \"x/a\"", "--upstream x=URL"),
        ("mirror = \"/a\"", "without a name"),
        ("mirror = \"m/../a\"", "a dot or two"),
        ("[upstreams.n]\nurl = \"http://h/\"\nlisting = \"s3\"", "has no mirror"),
        (
            "[upstreams.n]\nurl = \"http://h/\"\nmirror = \"/a\"\nlisting = \"ftp\"",
            "nginx-json",
        ),
        ("mirror_depth = 3", "no upstream has a mirror"),
    ] {
        let told = mistakes(&[], &format!("data = \"/d\"\nupstream = \"m=http://h/\"\n{toml}"));
        assert!(told.len() == 1 && told[0].contains(part), "{toml}: {told:#?}");
    }
}

#[test]
fn any_url_is_off_where_a_proxy_stands_before_the_server() {
    let allows = |flags: &[(&str, &str)]| {
        let config = Config::read(&layers(flags, &[], ""));
        config.expect("valid").allows_any_url()
    };
    let always = [("upstream", "http://h/"), ("data", "/d")];
    assert!(allows(&always));
    for proxy in [
        ("trusted_proxies", "127.0.0.1"),
        ("public_url", "https://films.example/"),
    ] {
        let set = [&always[..], &[proxy]].concat();
        assert!(!allows(&set), "{proxy:?}");
        assert!(allows(&[&set[..], &[("ad_hoc", "true")]].concat()), "{proxy:?}");
    }
}

#[test]
fn the_servers_own_files_inside_a_directory_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().display().to_string();
    for key in ["data", "tokens", "access_log"] {
        let inside = format!("{root}/a/b");
        let mut flags = vec![("directory", root.as_str()), (key, inside.as_str())];
        if key != "data" {
            flags.push(("data", "/d"));
        }
        let mistakes = mistakes(&flags, "");
        assert!(
            mistakes.len() == 1 && mistakes[0].contains(key) && mistakes[0].contains("outside"),
            "{mistakes:#?}"
        );
    }
}

#[test]
fn a_server_that_would_serve_nothing_is_refused() {
    let far = [("data", "/d"), ("listen", "0.0.0.0:0")];
    assert!(mistakes(&far, "")[0].contains("nothing is served"));
    assert!(mistakes(&far, "ad_hoc = true").is_empty());
}

#[test]
fn https_needs_a_certificate_and_a_key() {
    assert!(mistakes(&[("data", "/d"), ("tls_key", "/k")], "")[0].contains("needs both"));
    assert!(mistakes(&[("data", "/d"), ("tls_key", "/k"), ("tls_certificate", "/c")], "").is_empty());
}

#[test]
fn a_default_of_a_command_gives_way_to_every_layer() {
    let flags = [("data", "/d"), ("upstream", "http://h/")];
    let mut with_default = layers(&flags, &[], "");
    with_default.add_defaults([("ad_hoc".to_owned(), "false".to_owned())]);
    assert!(!Config::read(&with_default).expect("valid").allows_any_url());
    let mut told = layers(&flags, &[], "ad_hoc = true");
    told.add_defaults([("ad_hoc".to_owned(), "false".to_owned())]);
    assert!(Config::read(&told).expect("valid").allows_any_url());
}

#[test]
fn the_help_of_a_setting_has_no_marks_of_markdown() {
    for setting in settings() {
        let plain = setting.plain();
        assert!(!plain.contains('`') && !plain.contains("]("), "{plain}");
        assert!(Path::new(&plain) != Path::new(""), "{}", setting.key);
    }
}

#[test]
fn fuzzed_configurations_are_read_or_refused_in_words() {
    crate::fuzzing::fuzz("config", |text| {
        if let Err(mistakes) = Config::read(&layers(&[], &[], &String::from_utf8_lossy(text))) {
            assert!(!mistakes.0.is_empty());
        }
    });
}
