//! The JSON of the API under `/-/api/v1`: one type for each body, written by the server and read by whoever asks it.
//!
//! The server (`admin`), the commands (`cli`) and programs that embed millpond use these types and no others, and the
//! schemas of `/-/openapi.json` are derived from them, by a test (docs/decisions/0036). Sizes are in bytes, times in seconds since 1970 UTC, ranges of
//! bytes half-open pairs `[start, end)`.
//!
//! Fields may be added and none changes its meaning. So a reader of an answer passes over fields that it does not know, takes a
//! word that it does not know for `unknown`, and has a default for every field but those that name the thing.

mod about;
mod fills;
mod mirrors;
mod objects;
mod problem;
mod sessions;
mod stats;
mod streams;
mod verify;

pub use about::About;
pub use fills::{FillPhase, FillSummaries, FillSummary, SessionStage, SessionSummary, WaitReason, WaiterSummary};
pub use mirrors::{MirrorSummaries, MirrorSummary, WalkEvent, WalkFailures, WalkLine, WalkReport};
pub use objects::{JoinState, ObjectPage, ObjectState, ObjectSummary, Purged};
pub use problem::ProblemDetails;
pub use sessions::SessionCode;
pub use stats::Stats;
pub use streams::{StreamLinks, StreamState, StreamSummaries, StreamSummary};
pub use verify::{BadBlock, VerifyEvent, VerifyLine, VerifyProgress, VerifySummary};

/// The schemas of these types by their names, as JSON: the components of an OpenAPI 3.1 document.
pub const SCHEMAS: &str = include_str!("schemas.json");

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::ToSchema;
    use utoipa::openapi::schema::ComponentsBuilder;

    /// The schema of a type, and of all types that it is made of.
    fn with_schemas_of<T: ToSchema>(components: ComponentsBuilder) -> ComponentsBuilder {
        let mut parts = Vec::new();
        T::schemas(&mut parts);
        components.schema_from::<T>().schemas_from_iter(parts)
    }

    #[test]
    fn the_file_of_schemas_is_of_the_types_as_they_are_now() {
        let components = [
            with_schemas_of::<About>,
            with_schemas_of::<FillSummaries>,
            with_schemas_of::<MirrorSummaries>,
            with_schemas_of::<WalkEvent>,
            with_schemas_of::<ObjectPage>,
            with_schemas_of::<ObjectSummary>,
            with_schemas_of::<ProblemDetails>,
            with_schemas_of::<Purged>,
            with_schemas_of::<SessionCode>,
            with_schemas_of::<Stats>,
            with_schemas_of::<StreamSummaries>,
            with_schemas_of::<StreamSummary>,
            with_schemas_of::<VerifyEvent>,
        ]
        .into_iter()
        .fold(ComponentsBuilder::new(), |components, with| with(components))
        .build();
        let made = serde_json::to_string_pretty(&components.schemas).expect("JSON") + "\n";
        if made != SCHEMAS {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/schemas.json");
            std::fs::write(file, made).expect("written");
            panic!("{file} was not of these types, and is written anew: look at the difference and commit it");
        }
    }
}
