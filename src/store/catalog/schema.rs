//! The schema of the catalog: its version, and the numbered steps that lead to it.
//!
//! Each step is one frozen file in the top-level `migrations/`, mounted here. A step is run when
//! the version in `meta/schema` is below its number, and the version is written after it; a step
//! that was interrupted runs again, so each must be idempotent.

use crate::store::StoreError;

#[path = "../../../migrations/m0001_initial.rs"]
mod m0001_initial;
#[path = "../../../migrations/m0002_block_sums.rs"]
mod m0002_block_sums;
#[path = "../../../migrations/m0003_any_reply.rs"]
mod m0003_any_reply;
#[path = "../../../migrations/m0004_values_as_bytes.rs"]
mod m0004_values_as_bytes;
#[path = "../../../migrations/m0005_streams.rs"]
mod m0005_streams;
#[path = "../../../migrations/m0006_guarded.rs"]
mod m0006_guarded;
#[path = "../../../migrations/m0007_tree_index.rs"]
mod m0007_tree_index;

/// The tree of object records, by id.
pub(in crate::store) const OBJECTS: &str = "objects";

/// The tree of block checksums, by id, generation and group.
pub(in crate::store) const SUMS: &str = "sums";

/// The tree of streams, by id.
pub(in crate::store) const STREAMS: &str = "streams";

/// The tree of mirrored collections; see tree_index.rs.
pub(in crate::store) const INDEX: &str = "index";

const META: &str = "meta";
const SCHEMA: &str = "schema";

type Step = fn(&sled::Db) -> sled::Result<()>;

const STEPS: &[(u32, Step)] = &[
    (1, m0001_initial::run),
    (2, m0002_block_sums::run),
    (3, m0003_any_reply::run),
    (4, m0004_values_as_bytes::run),
    (5, m0005_streams::run),
    (6, m0006_guarded::run),
    (7, m0007_tree_index::run),
];

/// Brings the catalog to the newest schema.
pub(in crate::store) fn migrate(db: &sled::Db) -> Result<(), StoreError> {
    let meta = db.open_tree(META).map_err(StoreError::catalog("open"))?;
    let stored = meta.get(SCHEMA).map_err(StoreError::catalog("read"))?;
    let found = match stored {
        None => 0,
        Some(bytes) => <[u8; 4]>::try_from(bytes.as_ref())
            .map(u32::from_be_bytes)
            .map_err(|_| StoreError::Damaged {
                what: "meta/schema is not four bytes".to_owned(),
            })?,
    };
    let known = STEPS.last().map_or(0, |(number, _)| *number);
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    for (number, step) in STEPS.iter().filter(|(number, _)| *number > found) {
        step(db).map_err(StoreError::catalog("migrate"))?;
        meta.insert(SCHEMA, &number.to_be_bytes())
            .map_err(StoreError::catalog("migrate"))?;
        tracing::debug!(schema = number, "a step of the catalog's schema is done");
    }
    // A new catalog was empty: nothing of an operator's was changed.
    if (1..known).contains(&found) {
        tracing::info!(from = found, to = known, "migrated the catalog");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;
    use crate::key::ObjectId;

    const FIXTURE: &str = include_str!("../../../tests/fixtures/catalog-0001.txt");

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    fn import(fixture: &str) -> sled::Db {
        let db = sled::Config::new().temporary(true).open().expect("a temporary catalog");
        for line in fixture.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("tree key value");
            let tree = db.open_tree(word()).expect("a tree");
            tree.insert(hex(word()), hex(word())).expect("inserted");
        }
        db
    }

    #[test]
    fn a_catalog_of_schema_1_still_opens() {
        let db = import(FIXTURE);
        migrate(&db).expect("migrated");
        let objects = db.open_tree(OBJECTS).expect("a tree");
        let records: Vec<Record> = objects
            .iter()
            .map(|entry| Record::from_bytes(&entry.expect("readable").1).expect("decodes"))
            .collect();
        let film = records
            .iter()
            .find(|record| record.url == "http://h/film.mkv")
            .expect("the film");
        assert_eq!(film.complete_length, Some(5_000_000_000));
        assert_eq!(film.representation.validators.etag.as_deref(), Some("\"film-1\""));
        assert_eq!(
            crate::ranges::decode(&film.present).expect("decodes").total(),
            4096 + 1_000_000
        );
        assert_eq!((film.hits, film.pinned, film.unverified), (7, true, false));
        let radio = records
            .iter()
            .find(|record| record.url == "http://h/radio")
            .expect("the other");
        assert_eq!((radio.complete_length, radio.unverified), (None, true));
        assert!(
            objects
                .iter()
                .keys()
                .all(|id| ObjectId::from_bytes(&id.expect("readable")).is_some())
        );
    }

    #[test]
    fn a_record_of_version_2_is_read_as_a_reply_with_status_200() {
        let fixture = include_str!("../../../tests/fixtures/record-0002.txt");
        let line = fixture.lines().find(|line| !line.starts_with('#')).expect("a record");
        let record = Record::from_bytes(&hex(line)).expect("decodes");
        assert_eq!((record.generation, record.hits, record.pinned), (77, 4, true));
        assert_eq!(record.digest.map(|digest| digest[31]), Some(31));
        let representation = &record.representation;
        assert_eq!(representation.validators.etag.as_deref(), Some("\"film-2\""));
        assert_eq!(
            (representation.status, representation.age, representation.ranges),
            (200, 0, true)
        );
        assert!(representation.selected_by.is_empty() && representation.variant.is_none());
        let again = Record::from_bytes(&record.to_bytes().expect("encodes")).expect("decodes");
        assert_eq!(again, record);
    }

    #[test]
    fn a_record_of_version_3_keeps_its_values_as_the_bytes_that_they_were() {
        let fixture = include_str!("../../../tests/fixtures/record-0003.txt");
        let line = fixture.lines().find(|line| !line.starts_with('#')).expect("a record");
        let record = Record::from_bytes(&hex(line)).expect("decodes");
        assert_eq!((record.generation, record.hits, record.pinned), (3, 4, true));
        let representation = &record.representation;
        assert_eq!(representation.validators.etag.as_deref(), Some("W/\"film-3\""));
        assert_eq!(representation.variant.as_deref(), Some("v"));
        let name = representation.header("content-disposition").expect("a name");
        let sent = "attachment; filename=\"caf\u{e9}.mkv\"";
        assert_eq!(
            &*crate::header::value_of(name),
            sent.as_bytes(),
            "it goes out in UTF-8, as it came"
        );
        assert!(!representation.gives_parts);
        let again = Record::from_bytes(&record.to_bytes().expect("encodes")).expect("decodes");
        assert_eq!(again, record);
    }

    #[test]
    fn a_new_catalog_gets_every_step_and_a_second_start_none() {
        let db = sled::Config::new().temporary(true).open().expect("a temporary catalog");
        migrate(&db).expect("migrated");
        let export = |db: &sled::Db| -> Vec<_> {
            db.open_tree(META)
                .expect("a tree")
                .iter()
                .map(|entry| entry.expect("readable"))
                .collect()
        };
        let first = export(&db);
        migrate(&db).expect("nothing to do");
        assert_eq!(export(&db), first);
        assert_eq!(first.len(), 1);
    }

    #[test]
    fn a_catalog_of_schema_4_keeps_the_streams_that_it_has() {
        let db = sled::Config::new().temporary(true).open().expect("a temporary catalog");
        let meta = db.open_tree(META).expect("a tree");
        meta.insert(SCHEMA, &4u32.to_be_bytes()).expect("inserted");
        let streams = db.open_tree(STREAMS).expect("a tree");
        streams.insert(b"id", b"a record").expect("inserted");
        migrate(&db).expect("migrated");
        assert_eq!(streams.get(b"id").expect("readable").as_deref(), Some(&b"a record"[..]));
        assert_eq!(
            meta.get(SCHEMA).expect("readable").as_deref(),
            Some(&7u32.to_be_bytes()[..])
        );
    }

    #[test]
    fn a_catalog_of_a_newer_millpond_is_refused() {
        let db = sled::Config::new().temporary(true).open().expect("a temporary catalog");
        let meta = db.open_tree(META).expect("a tree");
        meta.insert(SCHEMA, &99u32.to_be_bytes()).expect("inserted");
        let refused = migrate(&db).expect_err("refused").to_string();
        assert!(refused.contains("schema 99") && refused.contains("--data"), "{refused}");
    }
}
