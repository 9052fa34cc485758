//! A density as a filled curve, what lies above zero in one colour and what lies below in another.

use crate::curve;
use leptos::prelude::*;
use std::fmt::Write;

/// Side of the box in which curves are drawn.
const BOX: f64 = 1000.0;

/// The picture; `summary` says in words what it shows.
#[component]
pub fn Density(
    /// (value, density), values ascending.
    points: Vec<(f64, f64)>,
    /// A value in words.
    tick: fn(f64) -> String,
    /// For screen readers.
    summary: String,
) -> impl IntoView {
    let low = points.first().map_or(-1.0, |p| p.0).min(0.0);
    let high = points.last().map_or(1.0, |p| p.0).max(0.0);
    let (low, high) = curve::axis(low, high);
    let share = move |x: f64| (x - low) / (high - low);
    let zero = format!("{:.1}", share(0.0) * BOX);
    let place = move |x: f64| format!("{:.2}%", share(x) * 100.0);
    let label = move |x: f64| view! { <span class="tick-x num" style:left=place(x)>{tick(x)}</span> };
    view! {
        <div class="density" role="img" aria-label=summary>
            <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
                <path class="density-below" d=area(&points, share, |x| x <= 0.0)></path>
                <path class="density-above" d=area(&points, share, |x| x >= 0.0)></path>
                <line class="density-zero" x1=zero.clone() x2=zero y1="0" y2="1000"></line>
            </svg>
            <div class="plot-ticks" aria-hidden="true">{curve::ticks(low, high, 5).into_iter().map(label).collect_view()}</div>
        </div>
    }
}

/// The closed path under the part of the curve that `keep` names, cut off at zero; empty where there is none.
fn area(points: &[(f64, f64)], share: impl Fn(f64) -> f64, keep: impl Fn(f64) -> bool) -> String {
    let peak = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    let mut kept: Vec<(f64, f64)> = Vec::with_capacity(points.len() + 1);
    for pair in points.windows(2) {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        if keep(x0) && kept.last() != Some(&(x0, y0)) {
            kept.push((x0, y0));
        }
        if x0 < 0.0 && x1 > 0.0 {
            kept.push((0.0, y0 + (y1 - y0) * (-x0 / (x1 - x0))));
        }
        if keep(x1) {
            kept.push((x1, y1));
        }
    }
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else { return String::new() };
    let mut d = format!("M{:.1} {BOX:.0}", share(first.0) * BOX);
    for (x, y) in &kept {
        // writing to a String cannot fail
        let _ = write!(d, "L{:.1} {:.1}", share(*x) * BOX, (1.0 - 0.96 * y / peak) * BOX);
    }
    let _ = write!(d, "L{:.1} {BOX:.0}Z", share(last.0) * BOX);
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_meet_at_zero() {
        let points = [(-1.0, 0.0), (1.0, 1.0), (3.0, 0.0)];
        let share = |x: f64| (x + 1.0) / 4.0;
        assert_eq!(area(&points, share, |x| x <= 0.0), "M0.0 1000L0.0 1000.0L250.0 520.0L250.0 1000Z");
        assert!(area(&points, share, |x| x >= 0.0).starts_with("M250.0 1000L250.0 520.0L500.0 40.0"));
        assert_eq!(area(&[(1.0, 0.0), (2.0, 1.0)], |x| x, |x| x <= 0.0), "");
        assert_eq!(area(&[], |x| x, |x| x >= 0.0), "");
    }
}
