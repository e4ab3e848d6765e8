//! The order of permits, preemption, and the rates.

use super::*;
use crate::key::ObjectKey;
use futures::FutureExt;
use url::Url;

fn budget(connections: usize) -> Arc<Budget> {
    Arc::new(Budget::new(BudgetSettings {
        connections,
        requests_per_second: None,
        bytes_per_second: None,
    }))
}

fn object(name: &str) -> ObjectId {
    ObjectKey::of(&Url::parse(&format!("http://h/{name}")).expect("a URL")).id()
}

/// The permit, where it is granted at once.
fn now(budget: &Arc<Budget>, class: Class) -> Option<Permit> {
    budget.acquire(class).now_or_never()
}

#[tokio::test]
async fn waiting_readers_come_first_and_the_background_leaves_room() {
    let budget = budget(4);
    let background = [now(&budget, Class::Background), now(&budget, Class::Background)];
    assert!(background.iter().all(Option::is_some));
    assert!(now(&budget, Class::Background).is_none());
    let waiting = [now(&budget, Class::Waiting), now(&budget, Class::Waiting)];
    assert!(waiting.iter().all(Option::is_some));
    let (mut late, mut later) = (
        Box::pin(budget.acquire(Class::Background)),
        Box::pin(budget.acquire(Class::Waiting)),
    );
    assert!((&mut late).now_or_never().is_none());
    assert!((&mut later).now_or_never().is_none());
    drop(waiting);
    assert!((&mut later).now_or_never().is_some());
    drop(background);
    assert!(late.now_or_never().is_some());
}

#[tokio::test]
async fn a_waiting_reader_preempts_only_an_exchange_without_readers() {
    let budget = budget(2);
    let (reader, idle) = (now(&budget, Class::Waiting), now(&budget, Class::Waiting));
    let (reader, idle) = (reader.expect("free"), idle.expect("free"));
    reader.resumes();
    idle.resumes();
    idle.handle().set_class(Class::Background);
    let mut late = Box::pin(budget.acquire(Class::Waiting));
    assert!((&mut late).now_or_never().is_none());
    assert!(idle.preempted().now_or_never().is_some());
    assert!(reader.preempted().now_or_never().is_none());
    drop(idle);
    assert!(late.now_or_never().is_some());
}

#[tokio::test]
async fn an_exchange_that_serves_readers_is_preempted_after_its_quantum() {
    let budget = budget(1);
    let long = now(&budget, Class::Waiting).expect("free");
    long.resumes();
    let late = Box::pin(budget.acquire(Class::Waiting));
    let mut late = late;
    assert!((&mut late).now_or_never().is_none());
    assert!(long.is_contended());
    long.moved(QUANTUM_BYTES - 1);
    assert!(long.preempted().now_or_never().is_none());
    long.moved(1);
    assert!(long.preempted().now_or_never().is_some());
}

#[tokio::test]
async fn unresumable_exchanges_are_preempted_last_and_only_without_readers() {
    let budget = budget(2);
    let (whole, ranged) = (now(&budget, Class::Waiting), now(&budget, Class::Waiting));
    let (whole, ranged) = (whole.expect("free"), ranged.expect("free"));
    ranged.resumes();
    whole.moved(QUANTUM_BYTES * 9);
    ranged.moved(QUANTUM_BYTES);
    let mut first = Box::pin(budget.acquire(Class::Waiting));
    assert!((&mut first).now_or_never().is_none());
    assert!(ranged.preempted().now_or_never().is_some());
    assert!(whole.preempted().now_or_never().is_none());
    whole.handle().set_class(Class::Background);
    let mut second = Box::pin(budget.acquire(Class::Waiting));
    assert!((&mut second).now_or_never().is_none());
    assert!(whole.preempted().now_or_never().is_some());
}

/// A waiter that found every connection taken has no timer for the rate; the permit that is dropped must give it one.
#[tokio::test(start_paused = true)]
async fn a_queued_reader_is_granted_the_next_rate_token() {
    let budget = Arc::new(Budget::new(BudgetSettings {
        connections: 1,
        requests_per_second: Some(4),
        bytes_per_second: None,
    }));
    let begun: Vec<_> = std::iter::from_fn(|| now(&budget, Class::Waiting)).take(9).collect();
    assert_eq!(begun.len(), 1);
    drop(begun);
    while now(&budget, Class::Waiting).is_some() {}
    // No token is left; take the only place as soon as there is one, and queue behind it.
    let held = budget.acquire(Class::Waiting).await;
    let late = tokio::spawn({
        let budget = Arc::clone(&budget);
        async move { budget.acquire(Class::Waiting).await }
    });
    while budget.status().queued == 0 {
        tokio::task::yield_now().await;
    }
    drop(held);
    // The rate has a token each quarter of a second.
    let granted = tokio::time::timeout(Duration::from_millis(260), late).await;
    assert!(granted.is_ok(), "forgotten");
}

#[tokio::test]
async fn an_abandoned_wait_leaves_the_queue() {
    let budget = budget(1);
    let held = now(&budget, Class::Waiting).expect("free");
    drop(Box::pin(budget.acquire(Class::Waiting)).now_or_never());
    let budget_status = budget.status();
    assert_eq!((budget_status.granted, budget_status.queued), (1, 0));
    drop(held);
    assert_eq!(budget.status().granted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_resting_budget_grants_no_permit_before_its_rest_is_over() {
    let (budget, rest) = (budget(4), Duration::from_secs(7));
    for name in ["a", "b"] {
        budget.refused(object(name), 429, rest);
    }
    assert!(now(&budget, Class::Waiting).is_none());
    assert_eq!(budget.status().resting, Some(rest));
    let begun = Instant::now();
    let _permit = budget.acquire(Class::Waiting).await;
    let waited = begun.elapsed();
    // A timer fires at a whole millisecond.
    assert!(
        waited >= rest && waited <= rest + Duration::from_millis(1),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_rests_is_waited_for_while_others_are_granted() {
    let (budget, rest) = (budget(4), Duration::from_secs(7));
    budget.refused(object("a"), 503, rest);
    assert_eq!(
        (budget.resting(object("a")), budget.resting(object("b"))),
        (Some(rest), None)
    );
    assert!(now(&budget, Class::Background).is_some());
    let begun = Instant::now();
    budget.rested(object("b")).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    budget.rested(object("a")).await;
    assert!(begun.elapsed() >= rest);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_has_said_429_gets_one_request_at_a_time_for_as_long() {
    let (budget, rest) = (budget(4), Duration::from_secs(7));
    budget.refused(object("a"), 429, rest);
    let begun = Instant::now();
    let first = now(&budget, Class::Waiting).expect("one");
    assert!(now(&budget, Class::Waiting).is_none());
    drop(first);
    let held = now(&budget, Class::Waiting).expect("one after the other");
    // The first goes on: the second begins when the time is over.
    let _second = budget.acquire(Class::Waiting).await;
    assert!(begun.elapsed() >= rest, "{:?}", begun.elapsed());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_down_is_tried_by_one_request_at_a_time() {
    let budget = budget(4);
    for _ in 1..DOWN_AFTER {
        now(&budget, Class::Waiting).expect("still trusted").unanswered();
    }
    assert!(budget.status().resting.is_none());
    now(&budget, Class::Waiting).expect("still trusted").unanswered();
    assert!(budget.status().resting.is_some());
    let probe = budget.acquire(Class::Waiting).await;
    assert!(now(&budget, Class::Waiting).is_none(), "one probe is enough");
    probe.answered();
    assert!(now(&budget, Class::Waiting).is_some());
}

#[tokio::test(start_paused = true)]
async fn requests_and_bytes_keep_to_their_rates() {
    let budget = Arc::new(Budget::new(BudgetSettings {
        connections: 100,
        requests_per_second: Some(5),
        bytes_per_second: Some(1000),
    }));
    let begun: Vec<_> = std::iter::from_fn(|| now(&budget, Class::Waiting)).take(50).collect();
    assert_eq!(begun.len(), 5, "a second's worth at once, no more");
    let first = begun[0].moved(500).expect("a pace");
    let second = begun[1].moved(500).expect("a pace");
    assert_eq!([first, second].map(|pause| pause.as_millis()), [500, 1000]);
}

#[tokio::test]
async fn relayed_requests_leave_one_connection_to_readers() {
    let budget = budget(3);
    let relay = || budget.acquire_for_relay(true).now_or_never();
    let relayed = [relay(), relay()];
    assert!(relayed.iter().all(Option::is_some));
    assert!(relay().is_none(), "the last is a reader's");
    let reader = now(&budget, Class::Waiting);
    assert!(reader.is_some());
    let mut late = Box::pin(budget.acquire_for_relay(false));
    assert!((&mut late).now_or_never().is_none());
    drop(reader);
    assert!(
        (&mut late).now_or_never().is_none(),
        "nor is it theirs when it is free again"
    );
    drop(relayed);
    assert!(late.now_or_never().is_some());
}

#[tokio::test]
async fn relayed_requests_and_readers_take_turns_at_one_connection() {
    let budget = budget(1);
    let mut held = now(&budget, Class::Waiting);
    let mut readers: Vec<_> = (0..3).map(|_| Box::pin(budget.acquire(Class::Waiting))).collect();
    let mut relays: Vec<_> = (0..3).map(|_| Box::pin(budget.acquire_for_relay(true))).collect();
    for waiting in &mut readers {
        assert!(waiting.now_or_never().is_none());
    }
    for waiting in &mut relays {
        assert!(waiting.now_or_never().is_none());
    }
    for round in 0..3 {
        drop(held.take());
        let relayed = (&mut relays[round]).now_or_never();
        assert!(relayed.is_some(), "{round}");
        assert!((&mut readers[round]).now_or_never().is_none());
        drop(relayed);
        held = (&mut readers[round]).now_or_never();
        assert!(held.is_some(), "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_body_is_no_trial_of_an_upstream_that_was_down() {
    let budget = budget(8);
    for _ in 0..DOWN_AFTER {
        budget.acquire(Class::Waiting).await.unanswered();
    }
    tokio::time::advance(Duration::from_secs(3600)).await;
    let mut upload = Box::pin(budget.acquire_for_relay(true));
    assert!((&mut upload).now_or_never().is_none());
    let trial = now(&budget, Class::Waiting).expect("a reader tries it, whoever came before");
    assert!((&mut upload).now_or_never().is_none());
    trial.answered();
    assert!(upload.now_or_never().is_some(), "it is up again");
}

#[tokio::test]
async fn an_unread_answer_that_is_read_again_stays_and_another_exchange_is_called() {
    let budget = budget(2);
    let relay = budget.acquire_for_relay(false).await;
    let idle = budget.acquire(Class::Waiting).await;
    relay.give_way();
    let mut reader = Box::pin(budget.acquire(Class::Waiting));
    assert!((&mut reader).now_or_never().is_none());
    assert!(relay.slot.called.load(Ordering::Relaxed), "it is called");
    idle.resumes();
    idle.handle().set_class(Class::Background);
    relay.keep();
    assert!(relay.preempted().now_or_never().is_none(), "the call is void");
    assert!(idle.preempted().now_or_never().is_some());
    drop(idle);
    assert!(reader.now_or_never().is_some());
}
