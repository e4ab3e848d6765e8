//! The operations of the API: what each is called, who may do it, what it answers, and the function that does it.
//!
//! The table of [`super::operations`] is the only list. From an entry come the route, the `Allow` field and the text of 404
//! and 405, the guard, and the entry of `openapi.json`: what is documented exists, and what exists is documented.

use super::guard;
use super::parameters::{Parameter, Parameters};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, Responder, Route, web};
use serde_json::{Map, Value, json};

/// The callers that may carry an operation out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callers {
    /// Every client that reaches the server: what a load balancer asks, and what an id or a code that is a secret opens.
    Everybody,
    /// Callers with *look*: what only tells.
    Lookers,
    /// Callers with *rule*: what changes something, and what tells secrets.
    Rulers,
}

/// One operation on one resource.
pub(super) struct Operation {
    pub(super) method: Method,
    /// The resource's path beneath `/-/`, with `{id}` for an id.
    pub(super) path: &'static str,
    pub(super) callers: Callers,
    summary: &'static str,
    parameters: &'static [Parameter],
    answers: Vec<Answer>,
    route: Box<dyn Fn() -> Route>,
}

/// The body of every failure.
const PROBLEM: Body = Body::Schema("ProblemDetails");

/// An answer that is to be expected of an operation.
struct Answer {
    status: u16,
    media_type: &'static str,
    body: Body,
    description: &'static str,
}

/// The body of an answer.
#[derive(Clone, Copy)]
enum Body {
    /// The type of [`crate::api`] of that name.
    Schema(&'static str),
    /// Text, or bytes of any kind.
    Text,
}

impl Operation {
    pub(super) fn new<F, Args>(method: Method, path: &'static str, callers: Callers, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        Self {
            method,
            path,
            callers,
            summary: "",
            parameters: &[],
            answers: Vec::new(),
            route: Box::new(move || web::to(handler.clone())),
        }
    }

    /// The effect of the operation, in a sentence.
    pub(super) fn says(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    /// The parameters of the query.
    pub(super) fn takes<P: Parameters>(self) -> Self {
        let parameters = P::ALL;
        Self { parameters, ..self }
    }

    /// A successful answer whose body is JSON: the type of [`crate::api`] of that name.
    pub(super) fn answers(self, status: u16, schema: &'static str, description: &'static str) -> Self {
        self.answer(status, "application/json", Body::Schema(schema), description)
    }

    /// A successful answer of lines of JSON, told as they come to be.
    pub(super) fn tells(self, schema: &'static str, description: &'static str) -> Self {
        self.answer(200, "application/x-ndjson", Body::Schema(schema), description)
    }

    /// A successful answer of another media type.
    pub(super) fn sends(self, media_type: &'static str, description: &'static str) -> Self {
        self.answer(200, media_type, Body::Text, description)
    }

    /// A failure that is to be expected of it.
    pub(super) fn fails(self, status: u16, description: &'static str) -> Self {
        self.answer(status, "application/problem+json", PROBLEM, description)
    }

    fn answer(mut self, status: u16, media_type: &'static str, body: Body, description: &'static str) -> Self {
        self.answers.push(Answer {
            status,
            media_type,
            body,
            description,
        });
        self
    }

    /// The methods that the operation answers: GET implies HEAD (RFC 9110 §9.1).
    pub(super) fn methods(&self) -> Vec<Method> {
        match self.method {
            Method::GET => vec![Method::GET, Method::HEAD],
            _ => vec![self.method.clone()],
        }
    }

    /// A route for each of the methods, behind the guard where not everybody may.
    pub(super) fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        self.methods().into_iter().map(|method| {
            let route = (self.route)().method(method);
            match self.callers {
                Callers::Everybody => route,
                Callers::Lookers => route.wrap(from_fn(guard::look)),
                Callers::Rulers => route.wrap(from_fn(guard::rule)),
            }
        })
    }

    /// The operation's entry in `openapi.json`: the name of its method there, and itself.
    pub(super) fn document(&self) -> (String, Value) {
        let mut parameters = Vec::new();
        if self.path.contains("{id}") {
            parameters.push(parameter("id", "path", "The id."));
        }
        for Parameter { name, form, what } in self.parameters {
            parameters.push(parameter(name, "query", &format!("{what} ({form})")));
        }
        let forbidden = Answer {
            status: 403,
            media_type: "application/problem+json",
            body: PROBLEM,
            description: match self.callers {
                Callers::Rulers => "The caller has not the right rule.",
                _ => "The caller has not the right look.",
            },
        };
        let guarded = (self.callers != Callers::Everybody).then_some(&forbidden);
        let responses: Map<String, Value> = self.answers.iter().chain(guarded).map(Answer::document).collect();
        let mut operation = json!({
            "summary": self.summary,
            "operationId": self.name(),
            "responses": responses,
        });
        if !parameters.is_empty() {
            operation["parameters"] = Value::Array(parameters);
        }
        (self.method.as_str().to_lowercase(), operation)
    }

    /// A name that programs made from the document call the operation by: `get_objects_id`.
    fn name(&self) -> String {
        let path = self.path.trim_start_matches("api/v1/");
        let words = path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
        words.fold(self.method.as_str().to_lowercase(), |name, word| {
            format!("{name}_{word}")
        })
    }
}

impl Answer {
    /// The answer's entry in `openapi.json`: its status, and itself.
    fn document(&self) -> (String, Value) {
        let schema = match self.body {
            Body::Schema(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
            Body::Text => json!({ "type": "string" }),
        };
        let answer = json!({
            "description": self.description,
            "content": { self.media_type: { "schema": schema } },
        });
        (self.status.to_string(), answer)
    }
}

fn parameter(name: &str, place: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": place,
        "description": description,
        "required": place == "path",
        "schema": { "type": "string" },
    })
}
