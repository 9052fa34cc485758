//! Numbers as people read them. Pure.

/// `12,345`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 record`, `2 records`.
pub fn counted(n: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", count(n), if n == 1 { singular } else { plural })
}

/// A share in [0, 1] as per cent with the given decimals; `–` where it is not a number.
pub fn percent(share: f64, decimals: usize) -> String {
    if share.is_finite() { format!("{:.*} %", decimals, share * 100.0) } else { "–".into() }
}

/// `4.6 MB` (powers of ten).
pub fn bytes(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let n_f64 = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.0} kB", n_f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n_f64 / 1e6),
        _ => format!("{:.1} GB", n_f64 / 1e9),
    }
}

/// A duration in two units at most: `850 ms`, `4.2 s`, `3 min 05 s`, `2 h 10 min`.
pub fn duration(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return "–".into();
    }
    if secs < 0.9995 {
        return format!("{:.0} ms", secs * 1e3);
    }
    if secs < 59.95 {
        return format!("{secs:.1} s");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite and not negative")]
    let total = secs.round() as u64;
    let (h, m, s) = (total / 3600, total / 60 % 60, total % 60);
    if h > 0 { format!("{h} h {m:02} min") } else { format!("{m} min {s:02} s") }
}

/// Milliseconds with as many digits as are worth reading: `0.42 ms`, `3.4 ms`, `128 ms`, `1,204 ms`.
pub fn millis(secs: f64) -> String {
    let ms = secs * 1e3;
    if !ms.is_finite() {
        "–".into()
    } else if ms < 1.0 {
        format!("{ms:.2} ms")
    } else if ms < 10.0 {
        format!("{ms:.1} ms")
    } else {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite and not negative")]
        let whole = ms.round().max(0.0) as u64;
        format!("{} ms", count(whole))
    }
}

/// A value of unknown size with about four significant digits: `0.0003`, `2.718`, `1,234`, `1.2e-7`.
pub fn value(x: f64) -> String {
    if !x.is_finite() {
        return "–".into();
    }
    let size = x.abs();
    if size == 0.0 {
        "0".into()
    } else if size < 1e-4 {
        format!("{x:.1e}")
    } else if size < 0.01 {
        trimmed(format!("{x:.5}"))
    } else if size < 10.0 {
        trimmed(format!("{x:.3}"))
    } else if size < 1000.0 {
        trimmed(format!("{x:.1}"))
    } else {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its size is known")]
        let whole = size.round() as u64;
        format!("{}{}", if x < 0.0 { "−" } else { "" }, count(whole))
    }
}

/// Number with sign, for rewards: `+0.42`, `−1.30`.
pub fn signed(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return "–".into();
    }
    let rounded = format!("{:.*}", decimals, x.abs());
    let is_zero = rounded.chars().all(|c| matches!(c, '0' | '.'));
    let sign = if is_zero {
        ""
    } else if x < 0.0 {
        "−"
    } else {
        "+"
    };
    format!("{sign}{rounded}")
}

/// First characters of a hash.
pub fn short_id(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

/// Time passed as words: `just now`, `4 min ago`, `3 h ago`, `2 days ago`.
pub fn ago(then_millis: i64, now_millis: i64) -> String {
    let secs = (now_millis - then_millis).max(0) / 1000;
    match secs {
        0..60 => "just now".into(),
        60..3_600 => format!("{} min ago", secs / 60),
        3_600..86_400 => format!("{} h ago", secs / 3_600),
        86_400..172_800 => "1 day ago".into(),
        _ => format!("{} days ago", secs / 86_400),
    }
}

fn trimmed(mut text: String) -> String {
    while text.contains('.') && text.ends_with(['0', '.']) {
        text.pop();
    }
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_three() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(counted(1, "record", "records"), "1 record");
    }

    #[test]
    fn durations_use_two_units_at_most() {
        assert_eq!(duration(0.0421), "42 ms");
        assert_eq!(duration(0.99999), "1.0 s");
        assert_eq!(duration(59.96), "1 min 00 s");
        assert_eq!(duration(185.4), "3 min 05 s");
        assert_eq!(duration(7_800.0), "2 h 10 min");
        assert_eq!(duration(f64::NAN), "–");
        assert_eq!(duration(-1.0), "–");
    }

    #[test]
    fn values_keep_what_is_worth_reading() {
        assert_eq!(value(0.0), "0");
        assert_eq!(value(0.0003), "0.0003");
        assert_eq!(value(2.71828), "2.718");
        assert_eq!(value(-1.5), "−1.5");
        assert_eq!(value(100.0), "100");
        assert_eq!(value(1234.4), "1,234");
        assert_eq!(value(5e-5), "5.0e-5");
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!(signed(0.001, 2), "0.00");
        assert_eq!(signed(-0.42, 2), "−0.42");
        assert_eq!(signed(0.42, 2), "+0.42");
    }

    #[test]
    fn small_and_large_sizes() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(4_600_000), "4.6 MB");
        assert_eq!(millis(0.000_42), "0.42 ms");
        assert_eq!(millis(1.2044), "1,204 ms");
        assert_eq!(percent(0.1234, 1), "12.3 %");
        assert_eq!(percent(f64::NAN, 1), "–");
    }

    #[test]
    fn ages() {
        assert_eq!(ago(0, 59_000), "just now");
        assert_eq!(ago(0, 240_000), "4 min ago");
        assert_eq!(ago(10_000, 0), "just now");
        assert_eq!(ago(0, 3 * 86_400_000), "3 days ago");
    }
}
