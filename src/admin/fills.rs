//! Fills under way, and why readers wait.

use super::parameters::{NoParameters, Query};
use crate::api::FillSummaries;
use crate::serve::Service;
use actix_web::web::{Data, Json};

pub(super) async fn list(service: Data<Service>, _: Query<NoParameters>) -> Json<FillSummaries> {
    let fills = service.fills.list();
    Json(FillSummaries { fills })
}
