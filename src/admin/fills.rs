//! Fills under way, and why readers wait: `GET /-/api/v1/fills`.

use crate::serve::Service;
use actix_web::HttpResponse;

pub(super) fn list(service: &Service) -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "fills": service.fills.list() }))
}
