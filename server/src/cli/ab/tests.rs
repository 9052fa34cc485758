use super::text::draw;
use super::*;
use beckon_shared::ab::Interval;
use clap::Parser;

fn analyze_args(extra: &[&str]) -> AnalyzeArgs {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: AnalyzeArgs,
    }
    let words = ["ab", "--input", "unused"].into_iter().chain(extra.iter().copied());
    Command::try_parse_from(words).expect("parses").args
}

fn words_of(text: &str, extra: &[&str]) -> String {
    let args = analyze_args(extra);
    let table = table(text.as_bytes(), &args).expect("reads");
    let settings = Settings { planned_users_per_arm: args.planned_users, alpha: args.alpha, ..Settings::default() };
    super::text::report(&analyze(&table, &settings, None).expect("a report").0)
}

#[test]
fn an_interval_is_drawn_to_scale() {
    let picture = draw(Interval { low: 0.0, high: 1.0 }, 0.5, -1.0, 1.0);
    let cells: Vec<char> = picture.chars().collect();
    assert_eq!((cells.len(), cells[20], cells[30], cells[40], cells[0]), (41, '├', '●', '┤', ' '));
    let outside = draw(Interval { low: -5.0, high: 0.5 }, 0.0, -1.0, 1.0);
    assert!(outside.starts_with('◂'));
}

#[test]
fn the_text_says_what_may_be_said() {
    let counts = "arm,users,clicks\nA,10000,510\nB,10000,690\n";
    let text = words_of(counts, &["--planned-users", "10000"]);
    assert!(text.contains("B against A: treatment better"), "{text}");
    assert!(text.contains("fixed horizon (no claim)") && text.contains("assumes: unit: the user"), "{text}");
    assert!(text.contains('●'), "{text}");
    let early = words_of("arm,users,clicks\nA,1000,51\nB,1000,69\n", &[]);
    assert!(early.contains("too early") && early.contains("51 so far"), "{early}");
    let broken = words_of("arm,users,clicks\nA,10000,510\nB,9000,690\n", &[]);
    assert!(broken.contains("sample ratio: MISMATCH") && broken.contains("B against A: void"), "{broken}");
}

#[test]
fn options_are_read_and_refused() {
    let args = analyze_args(&["--shares", "A=0.9,B=0.1", "--prior", "0,0.1", "--strata", "country"]);
    assert_eq!(args.shares, [("A".to_owned(), 0.9), ("B".to_owned(), 0.1)]);
    assert_eq!(args.prior, Some(Prior { mean: 0.0, std_dev: 0.1 }));
    assert_eq!(named_number("A:1").unwrap_err(), "`A:1`; expected a name and a number, as A=0.5");
    assert_eq!(prior("0.1").unwrap_err(), "`0.1`; expected a mean and a standard deviation, as 0,0.1");
}

#[test]
fn looks_are_kept_in_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, looks) = (dir.path().join("counts.csv"), dir.path().join("looks.json"));
    let mut args = AnalyzeArgs { input: input.clone(), looks: Some(looks.clone()), json: true, ..analyze_args(&[]) };
    std::fs::write(&input, "arm,users,clicks\nA,12000,600\nB,12000,800\n").expect("writes");
    analyze_file(&args).expect("a first look");
    let first = read_looks(&looks).expect("reads").expect("is there");
    assert_eq!(first.running["B"].n_looks(), 1);
    std::fs::write(&input, "arm,users,clicks\nA,20000,1050\nB,20000,1100\n").expect("writes");
    analyze_file(&args).expect("a second look");
    let second = read_looks(&looks).expect("reads").expect("is there");
    assert_eq!((second.running["B"].n_looks(), second.running["B"].p_value()), (2, first.running["B"].p_value()));
    args.alpha = 0.1;
    assert!(analyze_file(&args).unwrap_err().to_string().starts_with("alpha changed since the first look"));
    std::fs::write(&looks, "{}").expect("writes");
    assert!(format!("{:#}", analyze_file(&args).unwrap_err()).starts_with("no looks of a test in"));
    args.input = dir.path().join("missing.csv");
    assert!(format!("{:#}", analyze_file(&args).unwrap_err()).starts_with("cannot read"));
}

#[test]
fn a_broken_line_is_named_with_its_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = dir.path().join("counts.csv");
    std::fs::write(&input, "arm,users,clicks\nA,12000,600\nB,many,800\n").expect("writes");
    let error = format!("{:#}", analyze_file(&AnalyzeArgs { input, ..analyze_args(&[]) }).unwrap_err());
    assert!(
        error.ends_with("counts.csv: line 3, column `users`: `many`; expected a whole number, 0 or more"),
        "{error}"
    );
    let error = table(b"{}", &analyze_args(&["--format", "log"])).unwrap_err().to_string();
    assert!(error.contains("--experiment"), "{error}");
}

#[test]
fn a_log_can_be_analysed_by_a_window_and_rows_cannot() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, looks) = (dir.path().join("log.jsonl"), dir.path().join("looks.json"));
    let shown = |n: usize, user: &str, arm: &str, hours: i64| {
        let slate = serde_json::json!([{"text": "t", "clicked": true}]);
        let line = serde_json::json!({
            "impression_id": format!("i{n}"), "user_hash": user, "time_millis": hours * 3_600_000,
            "prompt": [{"role": "user", "text": "q"}], "slate": slate, "experiment": "e1", "arm": arm
        });
        line.to_string()
    };
    let log = [shown(1, "u", "a", 0), shown(2, "u", "a", 30), shown(3, "v", "b", 1)].join("\n");
    std::fs::write(&input, &log).expect("writes");
    let words = ["--format", "log", "--experiment", "e1", "--observation-hours", "24"];
    let args = AnalyzeArgs { input, looks: Some(looks.clone()), json: true, ..analyze_args(&words) };
    analyze_file(&args).expect("a report");
    assert_eq!(read_looks(&looks).expect("reads").expect("is there").settings.observation_hours, Some(24.0));
    let Table::Users(users) = table(log.as_bytes(), &args).expect("reads") else { panic!("users of a log") };
    let n_shown: Vec<f64> = users.users.iter().map(|user| user.clicks.denominator).collect();
    assert_eq!(n_shown, [1.0, 1.0], "the second slate of `u` came after the window");
    let rows = AnalyzeArgs { format: FormatArg::Table, ..args };
    assert!(analyze_file(&rows).unwrap_err().to_string().starts_with("--observation-hours is for --format log"));
}
