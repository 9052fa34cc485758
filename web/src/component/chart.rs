//! A line chart in SVG. The lines live in a box of 1000 × 1000 that is stretched to its place, with
//! strokes that keep their width; labels are ordinary text, so they stay legible at any size. Hovering, or the arrow keys
//! when focused, reads values out.

use crate::curve::{self, Curve};
use crate::format;
use crate::platform::dom;
use leptos::prelude::*;
use std::fmt::Write;

/// Side of the box in which lines are drawn.
const BOX: f64 = 1000.0;

/// Value ranges of a chart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn x_share(&self, x: f64) -> f64 {
        (x - self.x.0) / (self.x.1 - self.x.0)
    }

    /// From the top, as CSS and SVG count.
    fn y_share(&self, y: f64) -> f64 {
        (self.y.1 - y) / (self.y.1 - self.y.0)
    }

    #[expect(clippy::cast_precision_loss, reason = "step counts")]
    fn path(&self, points: &[(usize, f64)]) -> String {
        let mut d = String::with_capacity(points.len() * 14);
        for (i, &(step, value)) in points.iter().enumerate() {
            let (x, y) = (self.x_share(step as f64) * BOX, self.y_share(value) * BOX);
            // writing to a String cannot fail
            let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        d
    }
}

// reason: state, handlers and one view belong together
/// One curve over steps.
#[component]
#[expect(clippy::cast_precision_loss, reason = "step counts")]
pub fn Chart(
    /// For people.
    title: String,
    /// Of the values; empty where there is none.
    unit: &'static str,
    /// Stage and name, for the browser test.
    key_names: (&'static str, String),
    /// Values.
    #[prop(into)]
    curve: Signal<Curve>,
    /// Steps of the stage, so that the axis does not jump while it runs.
    #[prop(into)]
    n_steps: Signal<usize>,
) -> impl IntoView {
    let frame = Memo::new(move |_| {
        curve.with(|c| {
            let first = c.points().first().map_or(0, |p| p.0);
            let last = c.last().map_or(1, |p| p.0).max(n_steps.get()).max(first + 1);
            let (low, high) = c.range().unwrap_or((0.0, 1.0));
            Frame { x: (first.min(1) as f64, last as f64), y: curve::axis(low, high) }
        })
    });
    let cursor = RwSignal::new(None::<f64>);
    let marked = Memo::new(move |_| cursor.get().and_then(|step| curve.with(|c| c.nearest(step))));
    let is_smoothed = move || curve.with(|c| c.points().len() >= curve::SMOOTH_FROM);
    let line = move || {
        let f = frame.get();
        curve.with(|c| f.path(&if is_smoothed() { c.smoothed(c.window()) } else { c.drawn() }))
    };
    let raw = move || if is_smoothed() { frame.get().path(&curve.with(Curve::drawn)) } else { String::new() };
    let readout = move || {
        let (step, value) = marked.get().or_else(|| curve.with(Curve::last))?;
        Some(view! {
            <span class="num">{format::value(value)}</span>
            <span class="muted num">{format!(" step {}", format::count(step as u64))}</span>
        })
    };
    let summary = {
        let title = title.clone();
        move || {
            curve.with(|c| match (c.last(), c.range()) {
                (Some((step, value)), Some((low, high))) => format!(
                    "{title}: {} {unit} at step {step}; lowest {}, highest {}. Arrow keys read single steps.",
                    format::value(value),
                    format::value(low),
                    format::value(high),
                ),
                _ => format!("{title}: no values yet."),
            })
        }
    };
    let on_key = move |ev: leptos::ev::KeyboardEvent| {
        let (points, now) = (curve.with(|c| c.points().len()), marked.get());
        if points == 0 {
            return;
        }
        let at = curve.with(|c| now.map_or(points - 1, |(s, _)| c.points().partition_point(|p| p.0 < s)));
        let stride = (points / 50).max(1);
        let next = match ev.key().as_str() {
            "ArrowLeft" => at.saturating_sub(stride),
            "ArrowRight" => (at + stride).min(points - 1),
            "Home" => 0,
            "End" => points - 1,
            _ => return,
        };
        ev.prevent_default();
        cursor.set(curve.with(|c| c.points().get(next).map(|p| p.0 as f64)));
    };
    let on_move = move |ev: leptos::ev::PointerEvent| {
        let f = frame.get();
        cursor.set(dom::pointer_share(&ev).map(|share| f.x.0 + share * (f.x.1 - f.x.0)));
    };
    let (stage, name) = key_names;
    view! {
        <figure
            class="chart"
            data-testid="chart"
            data-stage=stage
            data-name=name
            data-points=move || curve.with(|c| c.points().len().to_string())
            data-last=move || curve.with(|c| c.last().map(|p| p.1.to_string()))
        >
            <figcaption>
                <span class="chart-title">{title}</span>
                <span class="muted">{unit}</span>
                <span class="chart-read" aria-live=move || if cursor.get().is_some() { "polite" } else { "off" }>
                    {readout}
                </span>
            </figcaption>
            <div
                class="chart-plot"
                tabindex="0"
                role="img"
                aria-label=summary
                on:pointermove=on_move
                on:pointerleave=move |_| cursor.set(None)
                on:blur=move |_| cursor.set(None)
                on:keydown=on_key
            >
                <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
                    <Grid frame=frame/>
                    <path class="chart-raw" d=raw></path>
                    <path class="chart-line" d=line></path>
                </svg>
                {move || marked.get().map(|(step, value)| {
                    let f = frame.get();
                    let left = format!("{:.2}%", f.x_share(step as f64) * 100.0);
                    let top = format!("{:.2}%", f.y_share(value) * 100.0);
                    view! {
                        <span class="chart-cursor" style:left=left.clone()></span>
                        <span class="chart-dot" style:left=left style:top=top></span>
                    }
                })}
                <YLabels frame=frame/>
            </div>
            <XLabels frame=frame/>
        </figure>
    }
}

#[component]
fn Grid(frame: Memo<Frame>) -> impl IntoView {
    move || {
        let f = frame.get();
        let line = |value: f64| {
            let y = format!("{:.1}", f.y_share(value) * BOX);
            view! { <line class="chart-grid" x1="0" x2="1000" y1=y.clone() y2=y></line> }
        };
        curve::ticks(f.y.0, f.y.1, 4).into_iter().map(line).collect_view()
    }
}

#[component]
fn YLabels(frame: Memo<Frame>) -> impl IntoView {
    move || {
        let f = frame.get();
        let label = |value: f64| {
            let top = format!("{:.2}%", f.y_share(value) * 100.0);
            view! { <span class="tick-y num" style:top=top aria-hidden="true">{format::value(value)}</span> }
        };
        curve::ticks(f.y.0, f.y.1, 4).into_iter().map(label).collect_view()
    }
}

#[component]
fn XLabels(frame: Memo<Frame>) -> impl IntoView {
    let labels = move || {
        let f = frame.get();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "steps are whole and not negative")]
        let label = |step: f64| {
            let left = format!("{:.2}%", f.x_share(step) * 100.0);
            view! { <span class="tick-x num" style:left=left>{format::count(step as u64)}</span> }
        };
        curve::ticks(f.x.0, f.x.1, 4).into_iter().filter(|s| s.fract() == 0.0).map(label).collect_view()
    };
    view! {
        <div class="chart-x" aria-hidden="true">
            {labels}
            <span class="chart-x-name">"step"</span>
        </div>
    }
}
