//! Fills under way, and why readers wait.
//!
//! The list is a copy of what each fill has told last. Asking for it changes nothing and delays no fill, so it is open
//! to all who reach the server; it names URLs, as the list of objects does.

use super::parameters::{NoParameters, Query};
use crate::api::FillSummaries;
use crate::proxy::Service;
use actix_web::web::{Data, Json};

pub(super) async fn list(service: Data<Service>, _: Query<NoParameters>) -> Json<FillSummaries> {
    let fills = service.fills.list();
    Json(FillSummaries { fills })
}
