//! All integration tests, as one binary: a file per promise of the design, and one per surface.
#![allow(missing_docs, reason = "tests are named as claims")]
#![allow(clippy::too_many_lines, reason = "a test tells its situation in one piece")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

mod access;
mod api;
mod browser;
mod budget;
mod chaos;
mod cli;
mod commands;
mod conditions;
mod conformance;
mod crash;
mod credentials;
mod delivery_capped;
mod delivery_follow;
mod disk;
mod http2;
mod integrity;
mod lane;
mod large;
mod leaks;
mod length;
mod methods;
mod mirror_removal;
mod mirrors;
mod names;
mod nobody;
mod offline;
mod once;
mod one_server;
mod oracle;
mod ordinary;
mod ordinary_random;
mod origin_access;
mod origin_clients;
mod origin_crash;
mod origin_file_systems;
mod origin_half_way;
mod origin_names;
mod origin_ordinary;
mod origin_read;
mod origin_uploads;
mod origin_write;
mod players;
mod policies;
mod quirks;
mod quota;
mod radio;
mod representation;
mod reuse;
mod sharing;
mod slow_clients;
mod small;
mod strangers;
mod streams;
mod tidy;
mod truncated;
mod upstream_matrix;
mod why;
