//! Estimates with their intervals, one a row, on one axis that all rows share. The numbers stand beside each row, so the
//! picture itself is hidden from screen readers.

use crate::curve;
use leptos::prelude::*;

/// One estimate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IntervalRow {
    /// What it is.
    pub label: String,
    /// The estimate.
    pub mark: Option<f64>,
    /// Its interval.
    pub interval: Option<(f64, f64)>,
    /// Both as a person reads them.
    pub text: String,
    /// For comparison only.
    pub faint: bool,
}

/// The plot.
#[component]
pub fn IntervalPlot(
    /// Estimates, first on top.
    rows: Vec<IntervalRow>,
    /// A value of the axis in words.
    tick: fn(f64) -> String,
    /// Whether the axis has to hold zero, with a line there.
    zero: bool,
) -> impl IntoView {
    let (low, high) = axis_of(&rows, zero);
    let place = move |x: f64| format!("{:.2}%", ((x - low) / (high - low) * 100.0).clamp(0.0, 100.0));
    let zero_line = move || zero.then(|| view! { <span class="plot-zero" style:left=place(0.0)></span> });
    let row = move |row: IntervalRow| {
        let bar = row.interval.map(|(from, to)| {
            let width = (to.min(high) - from.max(low)) / (high - low) * 100.0;
            view! { <span class="plot-bar" style:left=place(from) style:width=format!("{:.2}%", width.max(0.0))></span> }
        });
        let mark = row.mark.map(|mark| view! { <span class="plot-mark" style:left=place(mark)></span> });
        view! {
            <li class="plot-row" class:faint=row.faint>
                <span>{row.label}</span>
                <span class="plot-track" aria-hidden="true">{zero_line()}{bar}{mark}</span>
                <span class="num">{row.text}</span>
            </li>
        }
    };
    let label = move |x: f64| view! { <span class="tick-x num" style:left=place(x)>{tick(x)}</span> };
    view! {
        <ul class="plot">
            {rows.into_iter().map(row).collect_view()}
            <li class="plot-row plot-axis" aria-hidden="true">
                <span></span>
                <span class="plot-ticks">{curve::ticks(low, high, 4).into_iter().map(label).collect_view()}</span>
                <span></span>
            </li>
        </ul>
    }
}

/// Holds every mark and interval. An interval of a comparison row that is many times as wide as the others would flatten
/// them, so such a row is cut at the edge.
fn axis_of(rows: &[IntervalRow], zero: bool) -> (f64, f64) {
    let firm = rows.iter().filter(|row| !row.faint).flat_map(|row| {
        let (from, to) = row.interval.unzip();
        [row.mark, from, to]
    });
    let marks = rows.iter().map(|row| row.mark);
    let ends = rows.iter().flat_map(|row| {
        let (from, to) = row.interval.unzip();
        [from, to]
    });
    let span = |values: &mut dyn Iterator<Item = Option<f64>>| {
        let finite = values.flatten().filter(|x| x.is_finite());
        finite.fold(None, |range: Option<(f64, f64)>, x| {
            Some(range.map_or((x, x), |(low, high)| (low.min(x), high.max(x))))
        })
    };
    let own = span(&mut firm.chain(marks).chain([zero.then_some(0.0)]));
    let all = span(&mut ends.chain([own.map(|own| own.0), own.map(|own| own.1)]));
    let (low, high) = match (own, all) {
        (Some(own), Some(all)) if all.1 - all.0 <= 4.0 * (own.1 - own.0) || own.1 == own.0 => all,
        (Some(own), _) => own,
        (None, all) => all.unwrap_or((0.0, 1.0)),
    };
    if low == high { curve::axis(low - 0.01, high + 0.01) } else { curve::axis(low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mark: f64, interval: (f64, f64), faint: bool) -> IntervalRow {
        IntervalRow { mark: Some(mark), interval: Some(interval), faint, ..IntervalRow::default() }
    }

    #[test]
    fn the_axis_holds_all_rows_and_zero() {
        let (low, high) = axis_of(&[row(0.2, (0.1, 0.3), false), row(0.4, (0.3, 0.6), false)], true);
        assert!(low < 0.0 && high > 0.6, "{low} {high}");
        let (low, high) = axis_of(&[row(0.2, (0.1, 0.3), false)], false);
        assert!(low > 0.05 && low < 0.1 && high > 0.3, "{low} {high}");
    }

    #[test]
    fn nothing_or_nan_still_makes_an_axis_and_a_very_wide_companion_is_cut() {
        assert_eq!(axis_of(&[], false), curve::axis(0.0, 1.0));
        let (low, high) = axis_of(&[row(f64::NAN, (f64::NEG_INFINITY, f64::NAN), false)], true);
        assert!(low < 0.0 && high > 0.0, "{low} {high}");
        let (low, high) = axis_of(&[row(0.1, (0.0, 0.2), false), row(0.1, (-90.0, 90.0), true)], true);
        assert!(low > -1.0 && high < 1.0, "{low} {high}");
    }
}
