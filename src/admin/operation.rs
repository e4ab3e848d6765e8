//! The operations of the API: what each is called, who may do it, what it answers, and the function that does it.
//!
//! The table of [`super::operations`] is the only list. From an entry come the route, the `Allow` field and the text of 404
//! and 405, the guard, and the entry of `openapi.json`: what is documented exists, and what exists is documented.

use super::guard;
use super::parameters::{Parameter, Parameters};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, Responder, Route, web};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ComponentsBuilder, Object, Type};
use utoipa::openapi::{Content, Ref, Required, Response};

/// The callers that may carry an operation out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Callers {
    /// Every client that reaches the server: what a load balancer asks, and what an id that is a secret opens.
    Everybody,
    /// Every client, where there is no file of tokens; else those that may read everything.
    All,
    /// Programs on the server's own machine, or callers that may write everything: what is changed, or is a secret.
    Local,
}

/// One operation on one resource.
pub(super) struct Operation {
    pub(super) method: Method,
    /// The resource's path beneath `/-/`, with `{id}` for an id.
    pub(super) path: &'static str,
    pub(super) callers: Callers,
    summary: &'static str,
    parameters: &'static [Parameter],
    answers: Vec<(u16, Response)>,
    schemas: fn(ComponentsBuilder) -> ComponentsBuilder,
    route: Box<dyn Fn() -> Route>,
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
            schemas: |components| components,
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

    /// A successful answer whose body is JSON.
    pub(super) fn answers<T: ToSchema>(mut self, status: u16, description: &str) -> Self {
        let content = Content::new(Some(Ref::from_schema_name(T::name())));
        let response = Response::builder().description(description);
        self.answers
            .push((status, response.content("application/json", content).build()));
        self.schemas = with_schemas::<T>;
        self
    }

    /// A successful answer of lines of JSON, told as they come to be.
    pub(super) fn tells<T: ToSchema>(mut self, description: &str) -> Self {
        let content = Content::new(Some(Ref::from_schema_name(T::name())));
        let response = Response::builder().description(description);
        self.answers
            .push((200, response.content("application/x-ndjson", content).build()));
        self.schemas = with_schemas::<T>;
        self
    }

    /// A successful answer of another media type.
    pub(super) fn sends(mut self, media_type: &str, description: &str) -> Self {
        let content = Content::new(Some(Object::with_type(Type::String)));
        let response = Response::builder().description(description);
        self.answers.push((200, response.content(media_type, content).build()));
        self
    }

    /// A failure that is to be expected of it.
    pub(super) fn fails(mut self, status: u16, description: &str) -> Self {
        let content = Content::new(Some(Ref::from_schema_name("ProblemDetails")));
        let response = Response::builder().description(description);
        self.answers
            .push((status, response.content("application/problem+json", content).build()));
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
                Callers::All => route.wrap(from_fn(guard::look)),
                Callers::Local => route.wrap(from_fn(guard::rule)),
            }
        })
    }

    /// The operation's entry in `openapi.json`: its method, itself, and its schemas.
    pub(super) fn document(&self) -> (HttpMethod, OperationBuilder, fn(ComponentsBuilder) -> ComponentsBuilder) {
        let mut operation = OperationBuilder::new()
            .summary(Some(self.summary))
            .operation_id(Some(self.name()));
        if self.path.contains("{id}") {
            operation = operation.parameter(parameter("id", ParameterIn::Path, Required::True, "The id."));
        }
        for Parameter { name, form, what } in self.parameters {
            let description = format!("{what} ({form})");
            operation = operation.parameter(parameter(name, ParameterIn::Query, Required::False, &description));
        }
        for (status, response) in &self.answers {
            operation = operation.response(status.to_string(), response.clone());
        }
        if self.callers == Callers::Local {
            let only = Response::builder().description(
                "For programs on the server's own machine or, where there are tokens, for one that may write.",
            );
            let content = Content::new(Some(Ref::from_schema_name("ProblemDetails")));
            operation = operation.response("403", only.content("application/problem+json", content).build());
        }
        let method = match self.method {
            Method::PUT => HttpMethod::Put,
            Method::POST => HttpMethod::Post,
            Method::DELETE => HttpMethod::Delete,
            _ => HttpMethod::Get,
        };
        (method, operation, self.schemas)
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

/// The schema of a type, and of all types that it is made of.
fn with_schemas<T: ToSchema>(components: ComponentsBuilder) -> ComponentsBuilder {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    components.schema_from::<T>().schemas_from_iter(parts)
}

fn parameter(name: &str, place: ParameterIn, required: Required, description: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
}
