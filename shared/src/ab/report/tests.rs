use super::headlines;
use super::verdict::Verdict;
use super::*;
use crate::ab::Interval;
use crate::ab::guardrail::GuardrailVerdict;
use crate::ab::input::{Observed, parse, upworthy};
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write;

fn table(text: &str) -> Table {
    parse(text.as_bytes(), &[]).expect("reads")
}

fn report(text: &str, settings: &Settings) -> Report {
    analyze(&table(text), settings, None).expect("a report").0
}

fn refused(text: &str, settings: &Settings) -> String {
    analyze(&table(text), settings, None).expect_err("no report").to_string()
}

/// Users over ten days with a past, requests, latency and a tier; the treatment's click rate is `lift` higher, its
/// latency `slower` times.
fn rows(n: usize, lift: f64, slower: f64, seed: u64) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let header = "user,arm,impressions,clicks,pre_impressions,pre_clicks,requests,no_suggestion,latency_millis_sum,day,\
                  device_tier\n";
    let mut text = header.to_owned();
    for i in 0..n {
        let is_treatment = i % 2 == 1;
        let rate = if rng.random_bool(0.3) { 0.4 } else { 0.1 };
        let now = rate * if is_treatment { 1.0 + lift } else { 1.0 };
        let (impressions, before) = (rng.random_range(1..=6), 8);
        let clicks = (0..impressions).filter(|_| rng.random_bool(now)).count();
        let past = (0..before).filter(|_| rng.random_bool(rate)).count();
        let requests = impressions + usize::from(rng.random_bool(0.2));
        let millis = impressions as f64 * rng.random_range(80.0..120.0) * if is_treatment { slower } else { 1.0 };
        let arm = if is_treatment { "B" } else { "A" };
        let (day, tier) = (1 + i * 10 / n, i % 3);
        let _ = writeln!(
            text,
            "u{i},{arm},{impressions},{clicks},{before},{past},{requests},{},{millis},2026-01-{day:02},t{tier}",
            requests - impressions
        );
    }
    text
}

#[test]
fn a_lift_is_found_day_by_day() {
    let planned = Settings { planned_users_per_arm: Some(4_000.0), no_suggestion_margin: 0.3, ..Settings::default() };
    let report = report(&rows(8_000, 0.3, 1.0, 1), &planned);
    let comparison = &report.comparisons[0];
    assert_eq!((report.unit.as_str(), comparison.verdict), ("user", Verdict::TreatmentBetter), "{comparison:?}");
    let AlwaysValid::Figures { p_value, interval, n_looks, crossed_at, .. } = &comparison.always_valid else {
        panic!("{:?}", comparison.always_valid)
    };
    assert!(*p_value < 0.05 && interval.low > 0.0 && interval.contains(comparison.difference.expect("defined")));
    assert_eq!(comparison.path.len(), 10);
    assert!(*n_looks >= 2 && *n_looks < 10, "early days fall into the burn-in: {n_looks}");
    assert!(crossed_at.is_some_and(|n| n <= 8_000.0));
    assert!(!comparison.fixed_horizon.is_claim, "one claim a report");
    assert_eq!(comparison.path.last().expect("days").p_value, Some(*p_value));
    let design_effect = report.arms[0].design_effect.expect("rows of users");
    assert!(design_effect > 1.05, "users differ: {design_effect}");
    assert_eq!(report.sample_ratio_by[0].by, "device_tier");
    let passed = comparison.guardrails.iter().all(|guardrail| guardrail.verdict == GuardrailVerdict::Passed);
    assert!(passed && comparison.guardrails.len() == 2, "{:?}", comparison.guardrails);
    let back: Report = serde_json::from_str(&serde_json::to_string(&report).expect("JSON")).expect("back");
    assert_eq!((back.comparisons[0].verdict, back.arms.len()), (comparison.verdict, 2));
}

#[test]
fn a_guardrail_holds_a_winner_back() {
    let report = report(&rows(8_000, 0.3, 1.3, 1), &Settings { no_suggestion_margin: 0.3, ..Settings::default() });
    assert_eq!(report.comparisons[0].verdict, Verdict::TreatmentBetterButGuarded);
    let latency = report.comparisons[0].guardrails.iter().find(|g| g.metric == "latency_millis_mean").expect("latency");
    assert_eq!(latency.verdict, GuardrailVerdict::Violated);
}

#[test]
fn the_past_narrows_the_interval_and_does_not_move_the_truth() {
    let text = rows(6_000, 0.2, 1.0, 2);
    let plain = report(&text, &Settings::default());
    let adjusted = report(&text, &Settings { cuped: true, ..Settings::default() });
    let width = |report: &Report| report.comparisons[0].difference_std_error.expect("defined");
    let cuped = adjusted.comparisons[0].cuped.expect("a past");
    assert!(cuped.is_used && !plain.comparisons[0].cuped.expect("a past").is_used);
    assert!(cuped.variance_reduction > 0.1, "{cuped:?}");
    let ratio = width(&adjusted) / width(&plain);
    assert_close("narrower by the share explained", ratio * ratio, 1.0 - cuped.variance_reduction, 1e-9);
    // the true difference: 0.19 · 0.2, weights of users aside
    assert_close("difference", adjusted.comparisons[0].difference.expect("defined"), 0.038, 4.0 * width(&adjusted));
    assert!(
        refused("user,arm,impressions,clicks\nu,A,1,1\nv,B,1,0\n", &Settings { cuped: true, ..Settings::default() })
            .contains("`pre_impressions`")
    );
}

/// That it was decided stays so at the first look, which may come before anybody with a past does.
#[test]
fn without_a_past_the_figures_stay_as_they_are_and_the_report_says_so() {
    let cuped = Settings { cuped: true, ..Settings::default() };
    let Table::Users(mut users) = table(&rows(2_000, 0.2, 1.0, 2)) else { panic!("rows of users") };
    let known = users.clone();
    for user in &mut users.users {
        (user.clicks.pre_numerator, user.clicks.pre_denominator) = (0.0, 0.0);
    }
    let unknown = Table::Users(users);
    let (adjusted, looks) = analyze(&unknown, &cuped, None).expect("a report");
    let (plain, _) = analyze(&unknown, &Settings::default(), None).expect("a report");
    let figures = |report: &Report| (report.comparisons[0].difference, report.comparisons[0].difference_std_error);
    assert_eq!((figures(&adjusted), adjusted.comparisons[0].cuped), (figures(&plain), None));
    assert!(adjusted.warnings[0].starts_with("`B` against `A` is not adjusted, though `cuped` is set"));
    assert!(plain.warnings.is_empty(), "{:?}", plain.warnings);
    assert!(adjusted.assumptions.iter().any(|said| said.contains("known of 0 of 2000 users")));
    // the next look of the same test may know one
    let (later, _) = analyze(&Table::Users(known), &cuped, Some(&looks)).expect("a report");
    assert!(later.comparisons[0].cuped.is_some_and(|cuped| cuped.is_used) && later.warnings.is_empty());
    let error = analyze(&unknown, &Settings::default(), Some(&looks)).expect_err("refused").to_string();
    assert!(error.starts_with("the adjustment by the past changed"), "{error}");
}

fn report_of_few_users() -> Report {
    let report = report(&rows(300, 0.0, 1.5, 3), &Settings::default());
    assert_eq!(report.comparisons[0].guardrails.len(), 2);
    report
}

#[test]
fn nothing_is_claimed_before_the_burn_in() {
    let report = report("arm,impressions,clicks\nA,10000,499\nB,10000,900\n", &Settings::default());
    let comparison = &report.comparisons[0];
    assert_eq!(comparison.always_valid, AlwaysValid::BurnIn { n_clicks: 499, needed: 500 });
    assert_eq!(comparison.verdict, Verdict::TooEarly);
    let users = report_of_few_users();
    assert!(users.comparisons[0].guardrails.iter().all(|g| g.lift_interval.is_none()), "guardrails wait too");
    assert!(comparison.fixed_horizon.p_value.expect("defined") < 1e-9, "however clear it looks");
}

#[test]
fn a_mismatch_voids_the_claim_of_users() {
    let text = "arm,users,clicks\nA,44000,5000\nB,45500,7000\n";
    assert_eq!(report(text, &Settings::default()).comparisons[0].verdict, Verdict::SampleRatioMismatch);
    let unequal = BTreeMap::from([("A".to_owned(), 44.0), ("B".to_owned(), 45.5)]);
    let planned = Settings { shares: unequal, ..Settings::default() };
    assert_eq!(report(text, &planned).comparisons[0].verdict, Verdict::TreatmentBetter);
    // impressions may differ for good reasons
    let impressions = text.replace("users", "impressions");
    let report = report(&impressions, &Settings::default());
    assert_eq!(report.comparisons[0].verdict, Verdict::TreatmentBetter);
    assert!(report.warnings.iter().any(|warning| warning.contains("planned shares")));
}

#[test]
fn the_fixed_design_waits_for_its_size_and_then_decides_alone() {
    let text = "arm,users,clicks\nA,3000,150\nB,3000,201\n";
    let fixed = |planned| Settings { design: Design::Fixed, planned_users_per_arm: planned, ..Settings::default() };
    assert_eq!(report(text, &fixed(Some(3_001.0))).comparisons[0].verdict, Verdict::TooEarly);
    let found = report(text, &fixed(Some(2_988.0)));
    assert_eq!(found.comparisons[0].verdict, Verdict::TreatmentBetter);
    assert!(found.comparisons[0].fixed_horizon.is_claim);
    assert!(refused(text, &fixed(None)).starts_with("planned_users_per_arm is not given; expected a number"));
}

#[test]
fn several_treatments_share_the_level() {
    let text = "arm,users,clicks\nA,20000,1000\nB,20000,1100\nC,20000,1350\n";
    let report = report(text, &Settings { control: Some("B".into()), ..Settings::default() });
    assert_close("level", report.level, 0.025, 1e-12);
    let names: Vec<&str> = report.arms.iter().map(|arm| arm.arm.as_str()).collect();
    assert_eq!(names, ["B", "A", "C"], "control first, others in order");
    let fixed: Vec<(f64, f64)> = report
        .comparisons
        .iter()
        .map(|c| (c.fixed_horizon.p_value.expect("defined"), c.fixed_horizon.p_holm.expect("defined")))
        .collect();
    assert_close("larger p as it is", fixed[0].1, fixed[0].0, 1e-15);
    assert_close("smaller p doubled", fixed[1].1, 2.0 * fixed[1].0, 1e-15);
    assert_eq!(report.comparisons[1].verdict, Verdict::TreatmentBetter);
    assert_eq!(report.comparisons[0].verdict, Verdict::Undecided);
}

#[test]
fn looks_go_on_where_the_last_report_ended() {
    let settings = Settings { planned_users_per_arm: Some(20_000.0), ..Settings::default() };
    let first = table("arm,users,clicks\nA,12000,600\nB,12000,800\n");
    let (_, looks) = analyze(&first, &settings, None).expect("a report");
    let looks: Looks = serde_json::from_str(&serde_json::to_string(&looks).expect("JSON")).expect("back");
    // the lead is lost again: the claim stays, as it was valid when it was made
    let later = table("arm,users,clicks\nA,20000,1050\nB,20000,1100\n");
    let (alone, _) = analyze(&later, &settings, None).expect("a report");
    let (report, _) = analyze(&later, &settings, Some(&looks)).expect("a report");
    let p_value = |report: &Report| report.comparisons[0].always_valid.p_value().expect("a claim");
    assert!(p_value(&report) < 0.05 && p_value(&alone) > 0.05);
    let AlwaysValid::Figures { n_looks: 2, interval: Interval { low, high }, .. } = report.comparisons[0].always_valid
    else {
        panic!("{:?}", report.comparisons[0].always_valid)
    };
    assert!(low > 0.0 && low < high);
    assert!(
        analyze(&first, &settings, Some(&analyze(&later, &settings, None).expect("a report").1)).is_err(),
        "shrunk"
    );
    for (changed, what) in [
        (Settings { alpha: 0.1, ..settings.clone() }, "alpha changed since the first look"),
        (Settings { planned_users_per_arm: None, ..settings.clone() }, "the planned number of users changed"),
        (Settings { control: Some("B".into()), ..settings.clone() }, "the control changed"),
        (Settings { observation_hours: Some(24.0), ..settings.clone() }, "the observation window changed"),
    ] {
        let error = analyze(&later, &changed, Some(&looks)).expect_err("refused").to_string();
        assert!(error.starts_with(what), "{error}");
    }
}

/// Two viewers look at the same time: neither look takes away what the other has shown.
#[test]
fn looks_that_did_not_know_of_each_other_are_joined() {
    let settings = Settings { planned_users_per_arm: Some(20_000.0), ..Settings::default() };
    let look = |n: u64, clicks: [u64; 2], before: Option<&Looks>| {
        let table = table(&format!("arm,users,clicks\nA,{n},{}\nB,{n},{}\n", clicks[0], clicks[1]));
        analyze(&table, &settings, before).map(|(_, looks)| looks)
    };
    let first = look(10_000, [500, 510], None).expect("a look");
    let earlier = look(12_000, [600, 800], Some(&first)).expect("a look");
    let later = look(20_000, [1_050, 1_100], Some(&first)).expect("a look");
    assert!(earlier.running["B"].p_value() < 0.05 && later.running["B"].p_value() > 0.05);
    for joined in [later.clone().joined(&earlier, Some(&first)), earlier.clone().joined(&later, Some(&first))] {
        let state = joined.running["B"];
        assert_eq!((state.n_looks(), state.p_value()), (3, earlier.running["B"].p_value()));
        assert_eq!(state.crossed_at(), Some(24_000.0));
        let (a, b) = (earlier.running["B"].interval().expect("taken"), later.running["B"].interval().expect("taken"));
        let both = Interval { low: a.low.max(b.low), high: a.high.min(b.high) };
        assert_eq!(state.interval(), Some(both));
        let shrunk = look(19_000, [900, 900], Some(&joined)).expect_err("fewer users than the later look had");
        assert!(shrunk.to_string().starts_with("38000 units, fewer than the 40000"), "{shrunk}");
    }
    // the same look twice over the same start adds nothing
    assert_eq!(first.clone().joined(&first, None), first);
}

#[test]
fn what_the_totals_of_users_are_of_is_said_and_doubted() {
    let said = |observed: Observed, design: Design| {
        let Table::Users(users) = table("user,arm,impressions,clicks\nu,A,3,1\nv,B,2,1\n") else {
            panic!("rows of users")
        };
        let settings = Settings { design, planned_users_per_arm: Some(10.0), ..Settings::default() };
        let report = analyze(&Table::Users(Users { observed, ..users }), &settings, None).expect("a report").0;
        (report.assumptions.join("\n"), report.warnings.join("\n"))
    };
    let (assumed, warned) = said(Observed::SoFar { n_returned: 2 }, Design::Sequential);
    assert!(assumed.contains("only if nobody comes back"), "{assumed}");
    assert!(warned.starts_with("2 of 2 users came back") && warned.contains("more likely than 0.05"), "{warned}");
    let (assumed, warned) = said(Observed::SoFar { n_returned: 0 }, Design::Sequential);
    assert!(assumed.contains("only if nobody comes back") && warned.is_empty(), "{assumed} {warned}");
    // one look needs no totals that stay as they are
    let (assumed, warned) = said(Observed::SoFar { n_returned: 2 }, Design::Fixed);
    assert!(!assumed.contains("comes back") && warned.is_empty(), "{assumed} {warned}");
    let (assumed, warned) = said(Observed::Window { hours: 24.0, n_waiting: 7 }, Design::Sequential);
    assert!(assumed.contains("the 24 hours after") && assumed.contains("7 users whose hours"), "{assumed}");
    assert!(!assumed.contains("comes back") && warned.is_empty(), "{warned}");
    assert!(said(Observed::AsGiven, Design::Sequential).0.contains("those of a fixed time"));
}

#[test]
fn days_are_looks_and_a_later_file_adds_one() {
    let first = table(&rows(4_000, 0.1, 1.0, 5));
    let (report, looks) = analyze(&first, &Settings::default(), None).expect("a report");
    let n_looks = |report: &Report| match report.comparisons[0].always_valid {
        AlwaysValid::Figures { n_looks, is_claim: true, .. } => n_looks,
        ref other => panic!("{other:?}"),
    };
    let later = table(&rows(6_000, 0.1, 1.0, 5));
    let (later, _) = analyze(&later, &Settings::default(), Some(&looks)).expect("a report");
    assert_eq!(n_looks(&later), n_looks(&report) + 1);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let text = "arm,users,clicks\nA,30,1\nB,30,2\n";
    let with = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        refused(text, &settings)
    };
    assert_eq!(with(|s| s.alpha = 0.0), "alpha is 0; expected a level above 0 and below 1, as 0.05");
    assert_eq!(with(|s| s.control = Some("Z".into())), "no arm `Z` in the data; there are `A`, `B`");
    assert_eq!(
        with(|s| s.shares = BTreeMap::from([("A".into(), 0.5)])),
        "no planned share for arm `B`; give one for every arm or for none"
    );
    assert!(refused("arm,users,clicks\nA,30,1\n", &Settings::default()).starts_with("1 arms in the data"));
}

#[test]
fn an_arm_without_impressions_is_undefined_and_not_a_number() {
    let report = report("arm,users,clicks\nA,0,0\nB,1000,700\n", &Settings::default());
    let comparison = &report.comparisons[0];
    assert!(report.arms[0].ctr.is_none() && comparison.difference.is_none() && comparison.posterior.is_none());
    assert!(!serde_json::to_string(&report).expect("JSON").contains("NaN"));
}

#[test]
fn headline_tests_by_hand_and_with_holm() {
    let text = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n\
                t1,One,p,1000,50\nt1,Two,p,1000,90\n\
                t2,One,p,1000,50\nt2,Two,p,1000,51\nt2,Three,p,1000,49\n\
                t3,One,p,100,0\nt3,Two,p,100,1\n\
                t4,One,p,1000,50\nt4,Two,p,2000,100\n";
    let report = headlines::analyze(&upworthy::parse(text.as_bytes()).expect("reads"), 0.05).expect("arms");
    assert_eq!((report.n_tests, report.n_headlines, report.n_tested), (4, 9, 3));
    assert_eq!((report.n_below_alpha, report.n_rejected, report.n_sample_ratio_mismatches), (1, 1, 1));
    let first = &report.tests[0];
    // 20² / (70 · 0.93) twice
    assert_close("chi²", first.chi_square, 2.0 * 400.0 / (70.0 * 0.93), 1e-9);
    assert_close("Holm over three", first.p_holm.expect("tested"), 3.0 * first.p_value.expect("tested"), 1e-15);
    assert_eq!(first.headlines[0].text, "Two");
    assert_close("spread", first.spread.expect("clicks"), 0.8, 1e-12);
    assert!(report.tests[3].p_value.is_none() && report.tests[3].name == "t3/p");
}
