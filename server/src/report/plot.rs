//! Small plots as inline SVG: lines over steps, and a reliability diagram. Colours are classes that the
//! report's style sheet fills, so that a plot follows the reader's light or dark setting.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Most points drawn of one series; longer ones are averaged in blocks.
const MAX_POINTS: usize = 400;
/// Colours that the style sheet defines.
const N_COLOURS: usize = 4;

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// x, y; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Lines over a common x axis, with optional horizontal lines to compare with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinePlot {
    /// Under the x axis.
    pub x_label: String,
    /// Beside the y axis, with unit.
    pub y_label: String,
    /// Lines.
    pub series: Vec<Series>,
    /// Dashed levels with their names.
    pub levels: Vec<(String, f64)>,
}

/// A mapping of data to the drawing area.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

impl LinePlot {
    /// The plot as an `svg` element with a legend; says so where there is nothing to draw.
    pub fn svg(&self) -> String {
        let series: Vec<Series> = self.series.iter().map(thinned).collect();
        let xs = || series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
        let ys = || series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).chain(self.levels.iter().map(|l| l.1));
        let (Some(x), Some(y)) = (range(xs()), range(ys().filter(|v| v.is_finite()))) else {
            return "<p class=\"none\">nothing was recorded</p>".to_owned();
        };
        let (x, y) = (widened(x, 0.0), widened(y, 0.05));
        let axes = Axes { x, y };
        let mut svg = self.frame(&axes);
        for (i, s) in series.iter().enumerate() {
            let points: Vec<String> =
                s.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", axes.px(x), axes.py(y))).collect();
            let class = i % N_COLOURS;
            let _ = write!(svg, "<polyline class=\"line c{class}\" points=\"{}\"/>", points.join(" "));
        }
        for (i, (_, level)) in self.levels.iter().enumerate().filter(|(_, l)| l.1.is_finite()) {
            let (y, class) = (axes.py(*level), (series.len() + i) % N_COLOURS);
            let _ = write!(
                svg,
                "<line class=\"level c{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - RIGHT
            );
        }
        svg.push_str("</svg>");
        svg + &self.legend()
    }

    fn frame(&self, axes: &Axes) -> String {
        let mut svg = open(&self.y_label, WIDTH, HEIGHT);
        draw_ticks(&mut svg, axes);
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 6.0,
            escape(&self.x_label)
        );
        let centre = TOP + (HEIGHT - TOP - BOTTOM) / 2.0;
        let _ = write!(
            svg,
            "<text class=\"label\" transform=\"translate(13 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(&self.y_label)
        );
        svg
    }

    fn legend(&self) -> String {
        let mut html = String::from("<p class=\"legend\">");
        let names = self.series.iter().map(|s| (s.name.clone(), "line"));
        let levels = self.levels.iter().map(|(name, y)| (format!("{name} ({})", tick_text(*y, 0.001)), "level"));
        for (i, (name, kind)) in names.chain(levels).enumerate() {
            let _ = write!(
                html,
                "<span><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><line class=\"{kind} c{}\" x1=\"1\" x2=\"25\" y1=\"5\" y2=\"5\"/></svg> {}</span> ",
                i % N_COLOURS,
                escape(&name)
            );
        }
        html + "</p>"
    }
}

/// One point of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityPoint {
    /// Mean predicted probability of the bin.
    pub predicted: f64,
    /// Observed frequency.
    pub observed: f64,
    /// Pairs in it; drawn as area.
    pub n: usize,
}

/// Predicted against observed probability, with the diagonal of perfect calibration.
pub fn reliability_svg(points: &[ReliabilityPoint]) -> String {
    let (width, height) = (WIDTH * 0.6, HEIGHT * 1.25);
    let mut svg = open("reliability diagram", width, height);
    let (w, h) = (width - LEFT - RIGHT, height - TOP - BOTTOM);
    let (px, py) = (|v: f64| LEFT + v * w, |v: f64| height - BOTTOM - v * h);
    for i in 0..=4 {
        let v = f64::from(i) / 4.0;
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{v:.2}</text><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{v:.2}</text>",
            width - RIGHT,
            LEFT - 6.0,
            py(v) + 4.0,
            px(v),
            height - BOTTOM + 16.0,
            y = py(v),
        );
    }
    let _ = write!(
        svg,
        "<line class=\"level c3\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        px(0.0),
        py(0.0),
        px(1.0),
        py(1.0)
    );
    let total = points.iter().map(|p| p.n).sum::<usize>().max(1) as f64;
    for p in points.iter().filter(|p| p.n > 0) {
        let radius = 3.0 + 14.0 * (p.n as f64 / total).sqrt();
        let _ = write!(
            svg,
            "<circle class=\"dot c0\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"><title>predicted {:.3}, observed {:.3}, {} pairs</title></circle>",
            px(p.predicted),
            py(p.observed),
            p.predicted,
            p.observed,
            p.n
        );
    }
    let _ = write!(
        svg,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">predicted probability</text><text class=\"label\" transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">observed frequency</text></svg>",
        LEFT + w / 2.0,
        height - 6.0,
        TOP + h / 2.0
    );
    svg
}

fn open(name: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" style=\"max-width:{width}px\" role=\"img\" aria-label=\"{}\">",
        escape(name)
    )
}

fn draw_ticks(svg: &mut String, axes: &Axes) {
    let step = nice_step(axes.y.1 - axes.y.0, 5);
    let mut y = (axes.y.0 / step).ceil() * step;
    while y <= axes.y.1 + step * 1e-6 {
        let p = axes.py(y);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{p:.1}\" y2=\"{p:.1}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            p + 4.0,
            tick_text(y, step)
        );
        y += step;
    }
    let step = nice_step(axes.x.1 - axes.x.0, 8);
    let mut x = (axes.x.0 / step).ceil() * step;
    while x <= axes.x.1 + step * 1e-6 {
        let p = axes.px(x);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{p:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM + 16.0,
            tick_text(x, step)
        );
        x += step;
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |r, v| Some(r.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

/// Never empty; `margin` is a share of the range.
fn widened((lo, hi): (f64, f64), margin: f64) -> (f64, f64) {
    let span = hi - lo;
    if span > 0.0 { (lo - margin * span, hi + margin * span) } else { (lo - 0.5, hi + 0.5) }
}

/// 1, 2 or 5 times a power of ten that cuts `span` into about `n` parts.
fn nice_step(span: f64, n: usize) -> f64 {
    let raw = span / n as f64;
    let power = 10f64.powf(raw.log10().floor());
    let factor = raw / power;
    power
        * if factor < 1.5 {
            1.0
        } else if factor < 3.5 {
            2.0
        } else if factor < 7.5 {
            5.0
        } else {
            10.0
        }
}

fn tick_text(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.trim_matches(['-', '0', '.']).is_empty() { "0".to_owned() } else { text }
}

/// Finite points, averaged in blocks where there are more than [`MAX_POINTS`].
fn thinned(series: &Series) -> Series {
    let finite: Vec<(f64, f64)> =
        series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let block = finite.len().div_ceil(MAX_POINTS).max(1);
    let mean = |c: &[(f64, f64)]| {
        let (x, y) = c.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        (x / c.len() as f64, y / c.len() as f64)
    };
    Series { name: series.name.clone(), points: finite.chunks(block).map(mean).collect() }
}

/// Text for HTML and SVG, in content and in quoted attributes.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_line_sit_at_the_ends_of_the_axes() {
        let plot = LinePlot {
            x_label: "step".into(),
            y_label: "loss".into(),
            series: vec![Series { name: "a<b".into(), points: vec![(0.0, 0.0), (5.0, f64::NAN), (10.0, 1.0)] }],
            levels: vec![("n-gram".into(), 0.5)],
        };
        let svg = plot.svg();
        // x from LEFT to WIDTH - RIGHT; y has 5% of margin above and below 208 units
        assert!(svg.contains("points=\"62.0,210.5 626.0,21.5\""), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"));
        assert!(svg.contains("y1=\"116.0\" y2=\"116.0\""), "{svg}");
    }

    #[test]
    fn an_empty_or_flat_plot_is_still_a_plot() {
        assert!(LinePlot::default().svg().contains("nothing was recorded"));
        let flat = LinePlot {
            series: vec![Series { name: "flat".into(), points: vec![(0.0, 2.0), (1.0, 2.0)] }],
            ..LinePlot::default()
        };
        assert!(flat.svg().contains("points=\"62.0,116.0 626.0,116.0\""), "{}", flat.svg());
    }

    #[test]
    fn long_series_are_averaged_to_the_same_mean() {
        let points: Vec<(f64, f64)> = (0..1_600).map(|i| (f64::from(i), f64::from(i % 4))).collect();
        let thin = thinned(&Series { name: String::new(), points });
        assert_eq!(thin.points.len(), MAX_POINTS);
        assert!(thin.points.iter().all(|p| (p.1 - 1.5).abs() < 1e-12));
    }

    #[test]
    fn steps_are_nice() {
        for (span, n, want) in [(1.0, 5, 0.2), (97.0, 8, 10.0), (0.03, 5, 0.005)] {
            assert!((nice_step(span, n) - want).abs() < 1e-12 * want.max(1.0), "{span} {n}");
        }
    }
}
