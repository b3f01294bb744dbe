//! The state machine: its tables, the behaviour of `decide`, and the
//! documentation must agree.

use super::{
    stories::{held, imported},
    *,
};

/// A time after every story.
const LATER: &str = "2027-06-01T17:00:00Z";

/// Ways into every status, with the payment and contract in every state that
/// they can be in there.
fn worlds() -> Vec<World> {
    let held = || given([hold("b1", "2027-01-01", "2027-01-03")]);
    let failed = act("b1", BookingAction::FailPayment { reason: None });
    let decline = act("b1", BookingAction::DeclineContract { reason: None });
    let authorized = || held().and([authorize("b1")]);
    let captured = || held().and([capture("b1", None)]);
    let in_part = || authorized().and([capture("b1", Some(DAY_CENTS))]);
    let had = |world: World| {
        world.and([send("b1"), sign("b1"), pick_up("b1").at("2027-01-01T17:00:00Z")])
    };
    let back = |world| had(world).and([give_back("b1", None)]);
    vec![
        held(),
        held().and([failed]),
        held().and([send("b1")]),
        held().and([send("b1"), sign("b1")]),
        held().and([expire("b1").at("2026-12-01T18:00:00Z")]),
        held().and([cancel("b1")]),
        authorized(),
        authorized().and([send("b1")]),
        authorized().and([send("b1"), act("b1", BookingAction::ViewContract)]),
        authorized().and([send("b1"), decline]),
        authorized().and([send("b1"), sign("b1")]),
        authorized().and([void("b1")]),
        authorized().and([cancel("b1")]),
        captured(),
        captured().and([send("b1"), sign("b1")]),
        captured().and([extend("b1", "2027-01-04")]),
        captured().and([reschedule("b1", "2027-01-01", "2027-01-01")]),
        captured().and([cancel("b1")]),
        captured().and([cancel("b1"), refund("b1", None)]),
        in_part(),
        in_part().and([send("b1"), sign("b1")]),
        in_part().and([send("b1"), sign("b1"), extend("b1", "2027-01-04")]),
        captured().and([send("b1"), sign("b1"), reschedule("b1", "2027-01-01", "2027-01-01")]),
        in_part().and([cancel("b1")]),
        had(authorized()),
        had(captured()),
        had(captured()).and([extend("b1", "2027-01-04")]),
        had(captured().and([reschedule("b1", "2027-01-01", "2027-01-01")])),
        had(authorized()).and([dispute("b1")]),
        had(captured()).and([dispute("b1")]),
        back(authorized()),
        back(captured()),
        back(captured()).and([refund("b1", None)]),
        back(in_part()).and([complete("b1")]),
        back(captured()).and([complete("b1")]),
        back(captured()).and([complete("b1"), refund("b1", None)]),
        back(captured()).and([dispute("b1"), resolve("b1", Status::Cancelled)]),
        back(captured()).and([dispute("b1"), resolve("b1", Status::Completed)]),
    ]
}

/// The action with arguments that fit wherever it is allowed.
fn fitting(action: Action) -> Step {
    let done = match action {
        Action::AuthorizePayment => return authorize("b1"),
        Action::CapturePayment => return capture("b1", None),
        Action::VoidPayment => return void("b1"),
        Action::RefundPayment => return refund("b1", None),
        Action::SendContract => return send("b1"),
        Action::Cancel => return cancel("b1"),
        Action::Dispute => return dispute("b1"),
        Action::ResolveDispute => return resolve("b1", Status::Completed),
        Action::Reschedule => return reschedule("b1", "2027-08-01", "2027-08-02"),
        Action::Extend => return extend("b1", "2027-08-01"),
        Action::Move => return move_to(2, "b1", true),
        Action::FailPayment => BookingAction::FailPayment { reason: None },
        Action::ViewContract => BookingAction::ViewContract,
        Action::SignContract => BookingAction::SignContract,
        Action::DeclineContract => BookingAction::DeclineContract { reason: None },
        Action::PickUp => BookingAction::PickUp,
        Action::Return => BookingAction::Return { on: None },
        Action::Complete => BookingAction::Complete,
        Action::NoShow => BookingAction::NoShow { reason: None },
        Action::Expire => BookingAction::Expire,
        Action::AddNote => BookingAction::AddNote { text: text("note") },
        Action::ChangeCustomer => BookingAction::ChangeCustomer {
            customer_id: uuid("other").into(),
            customer: customer("Other Dana"),
        },
        Action::IssueLink => BookingAction::IssueLink { link: link("second") },
        Action::RevokeLinks => BookingAction::RevokeLinks,
    };
    assert_eq!(done.action(), action);
    act("b1", done)
}

#[test]
fn what_is_allowed_is_what_is_done() {
    let mut tried = std::collections::BTreeSet::new();
    for world in worlds() {
        let booking = world.booking("b1").clone();
        for at in [world.now, time("2027-01-01T17:00:00Z"), time(LATER)] {
            let able = allowed(&booking, booking.today(at));
            assert!(!able.contains(&Action::Expire));
            let held = booking.status == Status::PendingPayment;
            let over = booking.hold_expires_at.is_some_and(|end| end <= at);
            for &action in Action::ALL {
                let step = Step { at: Some(at), ..fitting(action) };
                let outcome = world.clone().when(step);
                let possible = match action {
                    Action::Expire => held && over,
                    action => able.contains(&action),
                };
                tried.insert((booking.status, action, possible));
                match outcome.result {
                    Ok(()) => assert!(possible, "{} is done to {booking:?}", action.name()),
                    Err(refusal) => {
                        let reported = match &refusal {
                            BookingRejection::WrongStatus {
                                action: reported,
                                status,
                                allowed,
                                ..
                            } => {
                                (*reported, *status) == (action, booking.status) && *allowed == able
                            }
                            BookingRejection::TooEarly(first) => {
                                *first == booking.days.first()
                                    && matches!(action, Action::PickUp | Action::NoShow)
                            }
                            _ => false,
                        };
                        assert!(
                            reported && !possible,
                            "{}: {refusal:?}, {booking:?}",
                            action.name()
                        );
                    }
                }
            }
        }
    }
    for &status in Status::ALL {
        for &action in Action::ALL {
            let listed = action.from().contains(&status);
            let reached = tried.contains(&(status, action, true));
            // Only a booking taken over can have money left after its hold.
            let imported = (status, action) == (Status::Expired, Action::VoidPayment);
            assert_eq!(listed && !imported, reached, "{} of {status}", action.name());
        }
    }
}

#[test]
fn every_change_is_reported_and_survives() {
    let history = BookingAction::ImportHistory {
        name: text("created"),
        summary: text(&format!("by {SECRET}")),
    };
    let decline = act("b1", BookingAction::DeclineContract { reason: None });
    let failed = act("b1", BookingAction::FailPayment { reason: None });
    let note = act("b1", BookingAction::AddNote { text: text(&format!("call {SECRET}")) });
    let (customer_id, customer) = (uuid("other").into(), customer("Other Dana"));
    let no_show = act("b4", BookingAction::NoShow { reason: None });
    let world = held()
        .and([failed, authorize("b1"), send("b1"), act("b1", BookingAction::ViewContract), decline])
        .and([send("b1"), sign("b1"), reschedule("b1", "2027-01-01", "2027-01-02")])
        .and([extend("b1", "2027-01-03"), capture("b1", None), note])
        .and([act("b1", BookingAction::ChangeCustomer { customer_id, customer })])
        .and([act("b1", BookingAction::IssueLink { link: link("second") }), act("b1", history)])
        .and([act("b1", BookingAction::RevokeLinks)])
        .and([hold("b2", "2027-01-04", "2027-01-04"), expire("b2").at("2026-12-01T19:00:00Z")])
        .and([hold("b3", "2027-01-04", "2027-01-04"), authorize("b3"), void("b3")])
        .and([hold("b4", "2027-01-04", "2027-01-04"), authorize("b4"), move_to(2, "b4", true)])
        .and([no_show.on_car(2).at("2027-01-04T17:00:00Z"), pick_up("b1"), give_back("b1", None)])
        .and([complete("b1"), dispute("b1"), resolve("b1", Status::Completed), refund("b1", None)])
        .and([hold("b5", "2027-02-01", "2027-02-01"), cancel("b5")])
        .and([block("m1", "2027-02-01", "2027-02-02"), unblock("m1")]);
    let mut import = imported(Status::Completed, PaymentStatus::Captured, ContractStatus::Signed);
    if let Command::Booking(BookingCommand::Import(import)) = &mut import.command {
        import.id = booking_id("b6");
    }
    let world = world.and([import.on_car(2)]);
    let known: Vec<_> = BookingChange::KINDS.iter().chain(BlockChange::KINDS).collect();
    let unreported: Vec<_> = known
        .iter()
        .filter(|kind| !world.kinds.iter().any(|reported| reported == **kind))
        .collect();
    assert_eq!(unreported, Vec::<&&&str>::new());
    assert!(world.kinds.iter().all(|reported| known.iter().any(|kind| *kind == reported)));
    for calendar in &world.calendars {
        let json = serde_json::to_string(calendar).unwrap();
        assert_eq!(serde_json::from_str::<Calendar>(&json).unwrap(), *calendar);
        assert!(!json.contains(SECRET), "{json}");
    }
}

#[test]
fn little_is_done_to_a_booking_that_is_over() {
    const ALWAYS: [Action; 4] =
        [Action::AddNote, Action::ChangeCustomer, Action::IssueLink, Action::RevokeLinks];
    let held = || given([hold("b1", "2027-01-01", "2027-01-03")]);
    let had = || {
        let (paid, had) = (capture("b1", None), pick_up("b1").at("2027-01-01T17:00:00Z"));
        held().and([paid, send("b1"), sign("b1"), had, give_back("b1", None), complete("b1")])
    };
    let cases: [(World, &[Action]); 6] = [
        (held().and([cancel("b1")]), &[]),
        (held().and([expire("b1").at("2026-12-01T18:00:00Z")]), &[]),
        (
            held().and([authorize("b1"), cancel("b1")]),
            &[Action::CapturePayment, Action::VoidPayment],
        ),
        (held().and([capture("b1", None), cancel("b1")]), &[Action::RefundPayment]),
        (had(), &[Action::RefundPayment, Action::Dispute]),
        (had().and([refund("b1", None)]), &[Action::Dispute]),
    ];
    for (world, more) in cases {
        let expected: Vec<_> = more.iter().copied().chain(ALWAYS).collect();
        assert_eq!(allowed(world.booking("b1"), day("2027-06-01")), expected);
    }
}

#[test]
fn names_are_read_back() {
    for &status in Status::ALL {
        assert_eq!(status.name().parse(), Ok(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.name());
    }
    assert!("paid".parse::<Status>().is_err());
    let mut names: Vec<_> = Action::ALL.iter().map(|it| it.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Action::ALL.len());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test that writes the page on request")]
fn the_page_shows_this_state_machine() {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/booking.md");
    const BEGIN: &str = "<!-- generated: booking::table() -->\n\n";
    const END: &str = "\n<!-- end of generated -->\n";
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has lost its first marker");
    let (shown, after) = rest.split_once(END).expect("the page has lost its second marker");
    let new = table();
    if shown != new && std::env::var("EXODRIVE_WRITE_DOCS").is_ok() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{new}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        shown, new,
        "docs/booking.md is behind: EXODRIVE_WRITE_DOCS=1 cargo test -p exodrive-domain writes it"
    );
}
