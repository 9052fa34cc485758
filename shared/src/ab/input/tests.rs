use super::*;
use crate::click::{Impression, Slot};
use crate::prompt::Prompt;

fn table(text: &str) -> Table {
    parse(text.as_bytes(), &[]).expect("reads")
}

fn users_of(text: &str) -> Users {
    match table(text) {
        Table::Users(users) => users,
        Table::Counts(counts) => panic!("not users: {counts:?}"),
    }
}

#[track_caller]
fn refused(text: &str, want: &str) {
    assert_eq!(parse(text.as_bytes(), &[]).expect_err(text).to_string(), want);
}

#[test]
fn counts_as_csv_and_as_json() {
    let want = Table::Counts(Counts {
        arms: vec![
            ArmCounts { arm: "A".into(), n_units: 1000, n_clicks: 52 },
            ArmCounts { arm: "B".into(), n_units: 1001, n_clicks: 61 },
        ],
        units_are_users: false,
    });
    assert_eq!(table("arm,impressions,clicks\nA,1000,52\nB, 1001 ,61\n"), want);
    assert_eq!(table("\u{feff}clicks,arm,impressions\r\n52,A,1000\r\n61,B,1001\r\n"), want);
    let json =
        "{\"arm\":\"A\",\"impressions\":1000,\"clicks\":52}\n\n{\"arm\":\"B\",\"impressions\":1001,\"clicks\":61}\n";
    assert_eq!(table(json), want);
    assert!(matches!(table("arm,users,clicks\nA,10,1\n"), Table::Counts(Counts { units_are_users: true, .. })));
}

#[test]
fn rows_of_a_user_are_summed() {
    let users = users_of(
        "user,arm,impressions,clicks,pre_impressions,pre_clicks,day,device_tier\n\
         u1,A,3,1,5,2,2026-01-02,low\n\
         u2,B,4,0,,,2026-01-01,high\n\
         u1,A,2,1,5,2,2026-01-01,low\n",
    );
    assert_eq!(
        (users.arms.as_slice(), users.strata.as_slice()),
        (&["A", "B"].map(String::from)[..], &["device_tier".into()][..])
    );
    let first = &users.users[0];
    let want = Totals { numerator: 2.0, denominator: 5.0, pre_numerator: 2.0, pre_denominator: 5.0 };
    assert_eq!((first.clicks, first.day.as_deref()), (want, Some("2026-01-01")));
    assert!(users.has_past && users.has_days && !users.has_latency && users.n_crossovers == 0);
}

#[test]
fn a_user_of_two_arms_is_left_out_and_counted() {
    let users = users_of("user,arm,impressions,clicks\nu1,A,1,0\nu1,B,1,1\nu2,B,1,0\n");
    assert_eq!((users.users.len(), users.n_crossovers), (1, 1));
}

#[test]
fn guardrail_columns() {
    let users = users_of("user,arm,impressions,clicks,requests,no_suggestion,latency_millis_sum\nu1,A,2,1,3,1,250.5\n");
    let user = &users.users[0];
    assert_eq!((user.no_suggestion.numerator, user.no_suggestion.denominator), (1.0, 3.0));
    assert_eq!((user.latency_millis.numerator, user.latency_millis.denominator), (250.5, 2.0));
}

#[test]
fn named_strata_are_taken_and_must_exist() {
    let text = "user,arm,impressions,clicks,country\nu1,A,1,0,pt\nu2,B,1,1,de\n";
    refused(
        text,
        "line 1, column `country`: unknown; expected user, arm, impressions, clicks, pre_impressions, pre_clicks, requests, \
         no_suggestion, latency_millis_sum, day, or name it as a stratum",
    );
    match parse(text.as_bytes(), &["country".into()]) {
        Ok(Table::Users(users)) => assert_eq!(users.users[1].strata, ["de"]),
        other => panic!("{other:?}"),
    }
    let error = parse(text.as_bytes(), &["planet".into()]).unwrap_err();
    assert_eq!(error.to_string(), "line 1, column `planet`: no such column; it was named as a stratum");
}

#[test]
fn what_cannot_be_read_is_named_by_line_and_column() {
    refused("", "line 1: the file is empty; expected a header or JSON objects");
    refused("arm,impressions,clicks\n", "line 1: no rows under the header");
    refused(
        "arm,impressions,clicks\nA,10,1\nB,ten,1\n",
        "line 3, column `impressions`: `ten`; expected a whole number, 0 or more",
    );
    refused("arm,impressions,clicks\nA,10,11\n", "line 2, column `clicks`: 11 clicks of 10 impressions");
    refused("arm,impressions,clicks\nA,10,1\nA,10,1\n", "line 3, column `arm`: `A` stands in the file twice");
    refused("arm,impressions,clicks\nA,10\n", "line 2: 2 cells for 3 columns");
    refused("arm,arm,clicks\n", "line 1, column `arm`: stands in the header twice");
    refused("user,arm,impressions,clicks\nu,A,3,-1\n", "line 2, column `clicks`: `-1`; expected a number, 0 or more");
    refused("user,arm,impressions,clicks\nu,A,3,NaN\n", "line 2, column `clicks`: `NaN`; expected a number, 0 or more");
    refused("user,arm,impressions,clicks\n,A,3,1\n", "line 2, column `user`: empty; expected text");
    refused(
        "user,arm,impressions,clicks,requests\nu,A,3,1,4\n",
        "line 1, column `no_suggestion`: missing; `requests` and `no_suggestion` go together",
    );
    refused(
        "user,arm,impressions,clicks,browser\nu,A,3,1,x\nu,A,3,1,y\n",
        "line 3, column `browser`: `y` for a user who is `x` above",
    );
    let past = "user,arm,impressions,clicks,pre_impressions,pre_clicks\nu,A,3,1,4,1\nu,A,3,1,5,1\n";
    refused(past, "line 3, column `pre_impressions`: the past of a user must be the same in each row of the user");
    let error = parse(b"{\"arm\":\"A\",\"users\":3,\"clicks\":1}\n{\"arm\":", &[]).unwrap_err();
    assert_eq!((error.line, error.column.as_deref()), (2, None));
    let both = parse(b"arm,users,impressions,clicks\nA,1,2,1\n", &[]).unwrap_err();
    assert_eq!(both.column.as_deref(), Some("impressions"));
}

#[test]
fn upworthy_rows_become_tests() {
    let text = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n\
                t1,One,p,100,5\nt1,Two,p,90,9\nt1,Two,p,10,1\nt1,Three,q,100,1\nt2,Alone,p,5,1\n";
    let tests = upworthy::parse(text.as_bytes()).expect("reads");
    assert_eq!(tests.len(), 1);
    assert_eq!(tests[0].arms[1], ArmCounts { arm: "Two".into(), n_units: 100, n_clicks: 10 });
    let error = upworthy::parse(text.replace("90,9", "90,x").as_bytes()).unwrap_err();
    assert_eq!((error.line, error.column.as_deref()), (3, Some("clicks")));
}

fn slot(clicked: bool, visible: Option<bool>) -> Slot {
    Slot { text: "t".into(), propensity: None, visible, clicked, dwell_secs: None, followed_up: None }
}

fn impression(id: &str, user: &str, arm: Option<&str>, slate: Vec<Slot>) -> Impression {
    Impression {
        impression_id: id.into(),
        user_hash: user.into(),
        time_millis: 86_400_000,
        prompt: Prompt::from_query("q"),
        slate,
        policy: None,
        checkpoint: None,
        experiment: Some("e".into()),
        arm: arm.map(String::from),
        simulated: true,
    }
}

#[test]
fn our_own_log_becomes_users_of_an_experiment() {
    let log = [
        impression("1", "u1", Some("A"), vec![slot(false, None), slot(true, Some(true))]),
        impression("2", "u1", Some("A"), vec![slot(false, Some(true))]),
        impression("3", "u2", Some("B"), vec![slot(false, Some(false))]),
        impression("4", "u3", None, vec![slot(true, None)]),
        Impression { experiment: None, ..impression("5", "u4", Some("B"), vec![slot(true, None)]) },
        impression("6", "u5", Some("B"), vec![slot(true, None), slot(true, None)]),
    ];
    let users = users_from_impressions(&log, "e", None);
    assert_eq!(users.arms, ["A", "B"]);
    let totals: Vec<(f64, f64)> = users.users.iter().map(|u| (u.clicks.numerator, u.clicks.denominator)).collect();
    assert_eq!(totals, [(1.0, 2.0), (1.0, 1.0)], "never seen, without an arm, of another test: not counted");
    assert!(users.is_simulated && users.users[0].day.as_deref() == Some("1970-01-02"));
}

#[test]
fn users_of_a_log_count_with_their_window_once_it_is_over() {
    let hour = 3_600_000;
    let at = |user: &str, arm: &str, hours: i64, clicked: bool| Impression {
        time_millis: hours * hour,
        ..impression(&format!("{user}{hours}"), user, Some(arm), vec![slot(clicked, None)])
    };
    // u1 comes back within and after 24 hours; the hours of u2 are over with the log, those of u3 are not
    let log = [
        at("u1", "A", 0, false),
        at("u1", "A", 23, true),
        at("u1", "A", 24, true),
        at("u2", "A", 6, true),
        at("u3", "B", 7, true),
        at("u1", "A", 30, true),
    ];
    let clicks =
        |users: &Users| users.users.iter().map(|u| (u.clicks.numerator, u.clicks.denominator)).collect::<Vec<_>>();
    let users = users_from_impressions(&log, "e", Some(24.0));
    assert_eq!(clicks(&users), [(1.0, 2.0), (1.0, 1.0)]);
    assert_eq!(users.observed, Observed::Window { hours: 24.0, n_waiting: 1 });
    assert_eq!(users.arms, ["A", "B"], "an arm is there before its users count");
    let so_far = users_from_impressions(&log, "e", None);
    assert_eq!(clicks(&so_far), [(3.0, 4.0), (1.0, 1.0), (1.0, 1.0)]);
    assert_eq!(so_far.observed, Observed::SoFar { n_returned: 1 });
    let far = [at("u1", "A", 0, false), Impression { time_millis: i64::MIN, ..at("u1", "A", 1, false) }];
    assert_eq!(users_from_impressions(&far, "e", Some(1.0)).users[0].clicks.denominator, 1.0, "clocks may be wrong");
}
