//! The readers of a fill: how they hold it, what they tell it, and what they are told.
//!
//! A reader holds a `cursor`; its `position` says where it reads and how fast, by which read-ahead is measured. The owner
//! sees all of them through `readers`. Why one waits is put into a word and figures by `wait_reason`, and into a line of the
//! list of fills by `summary`. A reader never talks to a session.

pub(super) mod cursor;
pub(super) mod position;
pub(super) mod readers;
pub(super) mod summary;
pub(super) mod wait_reason;
