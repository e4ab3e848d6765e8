//! `openapi.json`: the document that programs read the API from, made from the table of operations and the schemas of the
//! types of [`crate::api`].
//!
//! No entry is written by hand: an operation that is not in the table is neither served nor documented. The
//! document is made anew for each request, since it is asked for rarely.

use super::operations;
use super::parameters::{NoParameters, Query};
use crate::api::SCHEMAS;
use crate::site::Site;
use actix_web::HttpResponse;
use actix_web::web::Data;
use serde_json::{Map, Value, json};

/// The document.
pub(super) async fn show(site: Data<Site>, _: Query<NoParameters>) -> HttpResponse {
    HttpResponse::Ok().json(document(site.cache.is_some()))
}

/// The document of a server with or without a cache.
fn document(has_cache: bool) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(has_cache) {
        let (method, documented) = operation.document();
        let path = paths
            .entry(format!("/-/{}", operation.path))
            .or_insert_with(|| json!({}));
        path[method] = documented;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "millpond", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas(SCHEMAS) },
    })
}

/// The schemas as JSON; the file is compiled in, and a test reads it.
fn schemas(file: &str) -> Value {
    serde_json::from_str(file).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_to_a_schema() {
        let document = document(true);
        let text = document.to_string();
        let mut seen = 0;
        for (at, _) in text.match_indices("#/components/schemas/") {
            let name = text[at..].trim_start_matches("#/components/schemas/");
            let name = name.split('"').next().expect("a quote ends it");
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
