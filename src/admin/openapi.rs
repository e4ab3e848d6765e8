//! `openapi.json`: the document that programs read the API from, made from the table of operations and the types of
//! [`crate::api`].
//!
//! No entry is written by hand: an operation that is not in the table is neither served nor documented. The
//! document is made anew for each request, since it is asked for rarely.

use super::operations;
use super::parameters::{NoParameters, Query};
use crate::api::ProblemDetails;
use crate::site::Site;
use actix_web::HttpResponse;
use actix_web::web::Data;
use utoipa::openapi::path::{PathItem, Paths};
use utoipa::openapi::schema::ComponentsBuilder;
use utoipa::openapi::{Info, OpenApi, OpenApiBuilder};

/// The document.
pub(super) async fn show(site: Data<Site>, _: Query<NoParameters>) -> HttpResponse {
    HttpResponse::Ok().json(document(site.cache.is_some()))
}

/// The document of a server with or without a cache.
fn document(has_cache: bool) -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new().schema_from::<ProblemDetails>();
    for operation in operations(has_cache) {
        let path = format!("/-/{}", operation.path);
        let (method, documented, schemas) = operation.document();
        components = schemas(components);
        let item = PathItem::new(method, documented);
        match paths.paths.get_mut(&path) {
            Some(known) => known.merge_operations(item),
            None => _ = paths.paths.insert(path, item),
        }
    }
    OpenApiBuilder::new()
        .info(Info::new("millpond", env!("CARGO_PKG_VERSION")))
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_document_leads_to_a_schema() {
        let document = serde_json::to_value(document(true)).expect("JSON");
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
