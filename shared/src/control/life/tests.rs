//! The whole table, cell by cell.

use super::*;

/// One letter a cell: `q`ueued, `p`aused, `r`unning, `c`ancelled at once; `P`ause or `C`ancel at the next step; `u`nwish,
/// `t`une, `v`anish; `.` refused. Columns as in [`RunCommand::ALL`]: start, pause, resume, cancel, tune, delete.
const TABLE: [(Standing, &str); 11] = [
    (Standing::Draft, "q..ctv"),
    (Standing::Queued, ".p.ct."),
    (Standing::Running, ".P.Ct."),
    (Standing::Pausing, ".PuCt."),
    (Standing::Cancelling, "......"),
    (Standing::Held, "..rCt."),
    (Standing::PuttingAside, "...Ct."),
    (Standing::Paused, "..qct."),
    (Standing::Cancelled, ".....v"),
    (Standing::Failed, "q....v"),
    (Standing::Finished, ".....v"),
];

fn letter(outcome: Result<Step, Refusal>) -> char {
    match outcome {
        Ok(Step::Become(RunState::Queued)) => 'q',
        Ok(Step::Become(RunState::Paused)) => 'p',
        Ok(Step::Become(RunState::Running)) => 'r',
        Ok(Step::Become(RunState::Cancelled)) => 'c',
        Ok(Step::Become(other)) => panic!("no command makes a run {other:?}"),
        Ok(Step::Wish(Wish::Pause)) => 'P',
        Ok(Step::Wish(Wish::Cancel)) => 'C',
        Ok(Step::Unwish) => 'u',
        Ok(Step::Tune) => 't',
        Ok(Step::Vanish) => 'v',
        Err(_) => '.',
    }
}

#[test]
fn every_cell_is_as_written_down() {
    assert_eq!(TABLE.map(|(standing, _)| standing), Standing::ALL);
    for (standing, row) in TABLE {
        let got: String = RunCommand::ALL.into_iter().map(|command| letter(step(standing, command))).collect();
        assert_eq!(got, row, "{standing:?}");
    }
}

#[test]
fn a_refusal_says_where_the_run_stands_and_what_to_do() {
    for standing in Standing::ALL {
        for command in RunCommand::ALL {
            if let Err(refusal) = step(standing, command) {
                let text = refusal.to_string();
                assert!(text.contains(standing.in_words()) && text.contains("; "), "{text}");
                assert!(!refusal.remedy.contains(&format!("{} it again", command.name())), "{text}");
            }
        }
    }
}

#[test]
fn a_command_whose_effect_is_there_is_not_legal_again_or_changes_nothing() {
    for standing in Standing::ALL {
        for command in RunCommand::ALL.into_iter().filter(|command| already(standing, *command)) {
            let outcome = step(standing, command);
            let harmless = outcome.is_err() || outcome == Ok(Step::Wish(Wish::Pause));
            assert!(harmless || standing == Standing::PuttingAside, "{standing:?} {command:?} {outcome:?}");
        }
    }
}

#[test]
fn a_final_state_is_left_only_by_a_start_after_a_failure() {
    for standing in [Standing::Cancelled, Standing::Failed, Standing::Finished] {
        for command in RunCommand::ALL {
            match step(standing, command) {
                Err(_) | Ok(Step::Vanish) => {}
                Ok(Step::Become(RunState::Queued)) => assert_eq!(standing, Standing::Failed),
                other => panic!("{standing:?} {command:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_wish_and_the_device_make_the_standing() {
    let on = Standing::on_device;
    assert_eq!(on(RunState::Running, None, false), Standing::Running);
    assert_eq!(on(RunState::Running, Some(Wish::Pause), false), Standing::Pausing);
    assert_eq!(on(RunState::Paused, Some(Wish::Cancel), true), Standing::Cancelling);
    assert_eq!(on(RunState::Paused, None, true), Standing::PuttingAside);
    assert_eq!(on(RunState::Paused, None, false), Standing::Held);
    assert_eq!(Standing::off_device(RunState::Paused), Standing::Paused);
}

#[test]
fn names_read_back() {
    for command in RunCommand::ALL {
        assert_eq!(RunCommand::from_name(command.name()), Some(command));
        assert_eq!(serde_json::to_value(command).expect("json"), command.name());
    }
    assert_eq!(RunCommand::from_name("explode"), None);
}
