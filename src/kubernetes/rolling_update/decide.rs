//! The algorithm: whose turn it is, and how far it may go. A pure function of how many pods there are.

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Replicas the new controller is to have.
    pub desired: i32,
    /// Pods above that at most.
    pub max_surge: i32,
    /// Pods below that at most.
    pub max_unavailable: i32,
    /// Replicas asked of the old controller.
    pub old: i32,
    /// Replicas asked of the new controller.
    pub new: i32,
    /// The new controller's available pods.
    pub new_available: i32,
    /// Whose turn it is.
    pub turn: Turn,
}

/// Up and down take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The new controller is scaled up.
    Up,
    /// The old controller is scaled down.
    Down,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Scale the new controller up to so many.
    ScaleUp(i32),
    /// Scale the old controller down to so many.
    ScaleDown(i32),
    /// Nothing now.
    Wait,
    /// Both are where they should be.
    Finish,
}

/// The algorithm: `scaleUp` and `scaleDown` of kubectl.
pub fn next(state: &State) -> Action {
    if state.new == state.desired && state.old == 0 {
        return Action::Finish;
    }
    match state.turn {
        Turn::Up => scale_up(state),
        Turn::Down => scale_down(state),
    }
}

fn scale_up(state: &State) -> Action {
    if state.new == state.desired {
        return Action::Wait;
    }
    if state.new > state.desired {
        // Somebody scaled it by hand meanwhile; kubectl never would.
        return Action::ScaleUp(state.desired);
    }
    let room = if state.old == 0 {
        state.desired - state.new
    } else {
        state.desired + state.max_surge - state.old - state.new
    };
    if room <= 0 {
        Action::Wait
    } else {
        Action::ScaleUp((state.new + room).min(state.desired))
    }
}

fn scale_down(state: &State) -> Action {
    if state.old == 0 {
        return Action::Wait;
    }
    let min_available = if state.desired == 0 {
        0
    } else {
        (state.desired - state.max_unavailable).max(0)
    };
    let new_unavailable = state.new - state.new_available;
    let spare = state.old + state.new - min_available - new_unavailable;
    if spare <= 0 {
        return Action::Wait;
    }
    if state.new == state.desired && state.new_available == state.desired {
        return Action::ScaleDown(0);
    }
    Action::ScaleDown((state.old - spare).max(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(desired: i32, old: i32, new: i32, new_available: i32, turn: Turn) -> State {
        State {
            desired,
            max_surge: 1,
            max_unavailable: 0,
            old,
            new,
            new_available,
            turn,
        }
    }

    #[test]
    fn two_replicas_go_one_by_one() {
        for (before, wanted) in [
            (state(2, 2, 0, 0, Turn::Up), Action::ScaleUp(1)),
            (state(2, 2, 1, 0, Turn::Down), Action::Wait),
            (state(2, 2, 1, 1, Turn::Down), Action::ScaleDown(1)),
            (state(2, 1, 1, 1, Turn::Up), Action::ScaleUp(2)),
            (state(2, 1, 2, 1, Turn::Down), Action::Wait),
            (state(2, 1, 2, 2, Turn::Down), Action::ScaleDown(0)),
            (state(2, 0, 2, 2, Turn::Up), Action::Finish),
            (state(3, 0, 1, 1, Turn::Up), Action::ScaleUp(3)),
            (state(1, 5, 1, 1, Turn::Down), Action::ScaleDown(0)),
        ] {
            assert_eq!(next(&before), wanted, "{before:?}");
        }
    }

    proptest! {
        /// With pods that become ready and fail at random, the limits hold at every step, and the update ends.
        #[test]
        fn limits_hold_and_it_ends(
            desired in 1..8_i32, old in 0..8_i32, max_surge in 0..3_i32, max_unavailable in 0..3_i32,
            readiness in prop::collection::vec(0..3_u8, 200),
        ) {
            prop_assume!(max_surge + max_unavailable > 0);
            let mut state = State { desired, max_surge, max_unavailable, old, new: 0, new_available: 0, turn: Turn::Up };
            let ceiling = (desired + max_surge).max(old);
            let floor = |state: &State, before: i32| (desired - max_unavailable).min(before) <= state.old + state.new_available;
            let mut quiet = readiness.into_iter();
            for _ in 0..500 {
                let before = state.old + state.new_available;
                match next(&state) {
                    Action::Finish => break,
                    Action::ScaleUp(to) => { prop_assert!(to > state.new && to <= desired); state.new = to; }
                    Action::ScaleDown(to) => {
                        prop_assert!(to < state.old && to >= 0);
                        state.old = to;
                        prop_assert!(floor(&state, before), "{state:?}");
                    }
                    Action::Wait => {}
                }
                prop_assert!(state.old + state.new <= ceiling, "{state:?}");
                state.turn = if state.turn == Turn::Up { Turn::Down } else { Turn::Up };
                match quiet.next() {
                    Some(0) => state.new_available = (state.new_available - 1).max(0),
                    Some(1) => {}
                    _ => state.new_available = (state.new_available + 1).min(state.new),
                }
            }
            prop_assert_eq!((state.old, state.new), (0, desired));
        }
    }
}
