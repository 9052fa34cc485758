//! Rules about the text of one file.

use super::{File, Finding};

/// Longest file and function without a `// reason: …`.
const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
/// The comment that allows an exception.
const REASON: &str = "// reason:";

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

/// Lines with their indices up to the file's unit tests, which by habit come last.
fn product_lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
}

/// Unit tests in a file of their own, as `a/tests.rs`.
fn is_unit_tests(file: &File) -> bool {
    file.path.ends_with("/tests.rs") || file.path.contains("/src/") && file.path.contains("/tests/")
}

/// A rule's own words would be found in this folder.
fn is_rulebook(file: &File) -> bool {
    file.path.starts_with("xtask/src/tidy")
}

/// Every module says what it is: the first line is `//! …`.
pub fn module_header(files: &[File]) -> Vec<Finding> {
    rust(files)
        .filter(|file| !is_unit_tests(file))
        .filter(|file| !file.text.starts_with("//! ") && !file.text.starts_with("#!["))
        .map(|file| Finding::of(&file.path, "starts without `//! …`: say what it is and where it stands in the loop"))
        .collect()
}

/// Code files stay under [`MAX_FILE_LINES`] lines.
pub fn file_length(files: &[File]) -> Vec<Finding> {
    files
        .iter()
        .filter(|file| [".rs", ".wgsl", ".js", ".css"].iter().any(|ending| file.path.ends_with(ending)))
        .filter_map(|file| {
            let n_lines = file.text.lines().count();
            let has_reason = file.text.lines().take(40).any(|line| line.contains(REASON));
            (n_lines > MAX_FILE_LINES && !has_reason).then(|| {
                let what =
                    format!("{n_lines} lines, more than {MAX_FILE_LINES}: split it, or say `{REASON} …` near its top");
                Finding::of(&file.path, what)
            })
        })
        .collect()
}

/// Functions stay under [`MAX_FUNCTION_LINES`] lines. Relies on rustfmt: a function ends at the first `}`
/// that stands under its `fn`.
pub fn function_length(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in rust(files) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = lines[start..].iter().position(|line| *line == format!("{indent}}}")).unwrap_or(0);
            let reason = lines[start.saturating_sub(8)..=start].iter().any(|line| line.contains(REASON));
            if end >= MAX_FUNCTION_LINES && !reason {
                let what = format!(
                    "function of {} lines, more than {MAX_FUNCTION_LINES}: split it, or say `{REASON} …`",
                    end + 1
                );
                findings.push(Finding::at(file, start, what));
            }
        }
    }
    findings
}

fn starts_function(line: &str) -> bool {
    let mut words = line.trim_start().split(' ').take(6);
    let prefix = |word: &str| ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"].contains(&word);
    words.find(|word| !prefix(word)) == Some("fn") && !line.trim_end().ends_with([';', '}'])
}

/// Nothing that was left for later.
pub fn unfinished(files: &[File]) -> Vec<Finding> {
    let words =
        ["todo!(", "unimplemented!(", "dbg!(", "// TODO", "// FIXME", "// XXX", "To be written", "//! placeholder"];
    let code = |file: &&File| [".rs", ".wgsl", ".js", ".html"].iter().any(|ending| file.path.ends_with(ending));
    let mut findings = Vec::new();
    for file in files.iter().filter(code).filter(|file| !is_rulebook(file)) {
        for (line_idx, line) in file.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                findings.push(Finding::at(
                    file,
                    line_idx,
                    format!("`{word}`: finish it, or open an issue and say so in words"),
                ));
            }
        }
    }
    findings
}

/// No `pub use x::*`: a reader must find where a name comes from.
pub fn glob_reexport(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in rust(files) {
        for (line_idx, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("pub use ") && line.trim_end().ends_with("::*;") {
                findings.push(Finding::at(file, line_idx, "glob re-export: name what is exported"));
            }
        }
    }
    findings
}

/// An ignored test says what it needs, in the words that `cargo xtask check` understands.
pub fn ignore_reason(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in rust(files).filter(|file| !is_rulebook(file)) {
        for (line_idx, line) in
            file.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("#[ignore"))
        {
            let reason = line.split('"').nth(1).unwrap_or_default();
            if crate::system::Part::in_ignore_reason(reason).is_empty() && !reason.starts_with("slow: ") {
                let what = "#[ignore = \"…\"] names none of: ../shared/data, Vulkan, Chromium, root, SmolLM2, Node, moto, PostgreSQL, `slow: …`";
                findings.push(Finding::at(file, line_idx, what));
            }
        }
    }
    findings
}

/// `shared` and `shaders` open no file or socket, start no thread, read no clock, draw no unseeded randomness.
pub fn shared_is_pure(files: &[File]) -> Vec<Finding> {
    let words = [
        "std::fs",
        "std::net",
        "std::thread",
        "thread::spawn",
        "Instant::now",
        "SystemTime",
        "thread_rng",
        "rand::rng(",
        "from_os_rng",
        "OsRng",
        "std::env::var",
    ];
    let mut findings = Vec::new();
    let product = |file: &File| file.path.starts_with("shared/src/") || file.path.starts_with("shaders/src/");
    for file in rust(files).filter(|file| product(file) && !is_unit_tests(file)) {
        for (line_idx, line) in product_lines(file).filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                findings.push(Finding::at(file, line_idx, format!("`{word}`: the caller passes it in")));
            }
        }
    }
    findings
}

/// Kernels run on every WebGPU: no optional features of the language, but in the files that stand in for plain ones in variants.
pub fn wgsl_plain(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".wgsl") && !file.path.ends_with("_subgroup.wgsl")) {
        for (line_idx, line) in file.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("enable ") || code.contains("f16") || code.contains("subgroup") {
                findings.push(Finding::at(
                    file,
                    line_idx,
                    "needs an optional feature (f16, subgroups): use plain WGSL",
                ));
            }
        }
    }
    findings
}

/// No merge marks, no trailing blanks, no carriage returns, a newline at the end.
pub fn whitespace(files: &[File]) -> Vec<Finding> {
    let endings = [".rs", ".wgsl", ".js", ".css", ".html", ".md", ".toml", ".sh"];
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| endings.iter().any(|ending| file.path.ends_with(ending))) {
        for (line_idx, line) in file.text.split('\n').enumerate() {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                findings.push(Finding::at(file, line_idx, "merge mark"));
            } else if line.ends_with([' ', '\t', '\r']) {
                findings.push(Finding::at(file, line_idx, "trailing blank"));
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            findings.push(Finding::of(&file.path, "no newline at the end"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    /// The rule finds something in `bad` and nothing in `good`.
    #[track_caller]
    fn check(rule: Rule, path: &str, bad: &str, good: &str) {
        let find = |text: &str| rule(&[File { path: path.into(), text: text.into() }]);
        assert_eq!(find(bad).len(), 1, "in the bad text");
        assert_eq!(find(good), [], "in the good text");
    }

    fn function(n_lines: usize, before: &str) -> String {
        format!("{before}\n    pub async fn f(\n    ) {{\n{}    }}\n", "        g();\n".repeat(n_lines - 3))
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        check(module_header, "a.rs", "use x;\n", "//! What it is.\nuse x;\n");
        let long = "//\n".repeat(MAX_FILE_LINES + 1);
        check(file_length, "a.rs", &long, &"//\n".repeat(MAX_FILE_LINES));
        check(file_length, "a.rs", &long, &format!("// reason: a table\n{long}"));
        check(function_length, "a.rs", &function(MAX_FUNCTION_LINES + 1, ""), &function(MAX_FUNCTION_LINES, ""));
        let excused = function(MAX_FUNCTION_LINES + 1, "    // reason: one table\n");
        check(function_length, "a.rs", &function(MAX_FUNCTION_LINES + 1, ""), &excused);
        check(unfinished, "a.rs", "fn a() { todo!() }\n", "fn a() {}\n");
        check(unfinished, "a.rs", "// TODO later\n", "// later\nlet roman = \"XXX\";\n");
        let find = |path: &str| module_header(&[File { path: path.into(), text: "use x;\n".into() }]).len();
        assert_eq!((find("a/tests.rs"), find("a/contests.rs")), (0, 1));
        check(glob_reexport, "a.rs", "pub use a::*;\n", "pub use a::B;\nuse super::*;\n");
        check(ignore_reason, "a.rs", "#[ignore]\n", "#[ignore = \"needs Chromium\"]\n");
        check(ignore_reason, "a.rs", "#[ignore = \"flaky\"]\n", "#[ignore = \"slow: an hour\"]\n");
        let pure = "// std::fs\nfn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        check(shared_is_pure, "shared/src/a.rs", "use std::fs;\n", pure);
        check(wgsl_plain, "a.wgsl", "enable f16;\n", "let a = 1.0; // no f16\n");
        check(whitespace, "a.md", "a \nb\n", "a\nb\n");
        check(whitespace, "a.md", "a", "a\n");
        check(whitespace, "a.rs", "<<<<<<< HEAD\n", "a\n");
    }
}
