//! The configurations begin where they say, and a short search finds nothing wrong.

use super::*;

/// No more than so many states of each, so that a test takes a second.
const STATES_MAX: usize = 400;

#[test]
fn no_configuration_finds_a_violation_nearby() {
    for configuration in all() {
        let outcome = (configuration.run)(STATES_MAX, &mut |_| true);
        if let Some(violation) = outcome.violation {
            panic!("{}: {violation}", configuration.name);
        }
        assert!(outcome.is_complete || outcome.progress.state_count >= STATES_MAX, "{}", configuration.name);
    }
}

#[test]
fn the_recoveries_of_t_f1_are_searched_to_the_end() {
    let configuration = all().find(|it| it.name == "fast-5-t-f1").expect("it is one of them");
    let outcome = (configuration.run)(10_000, &mut |_| true);
    assert!(outcome.is_complete && outcome.violation.is_none(), "{outcome:?}");
}

#[test]
fn names_are_different() {
    let mut names: Vec<_> = all().map(|configuration| configuration.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}
