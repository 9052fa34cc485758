//! The report as one self-contained page.

use super::plot::{LinePlot, Series, escape, reliability_svg};
use super::{Curve, Report, SamplePrompt, ScoredText};
use crate::eval::reward::{Dispersion, ModelFigures, SourceFigures};
use beckon_shared::prompt::Role;
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{name} · Beckon report</title><style>{STYLE}</style></head><body><main><h1>{name}</h1>",
        name = escape(&report.name)
    );
    if report.lineage.simulated {
        html.push_str("<p class=\"notice\">Every click in this run's log was simulated.</p>");
    }
    section(&mut html, "What it shows", &list(&report.findings));
    section(&mut html, "Data", &data(report));
    section(&mut html, "Supervised fine-tuning", &sft(report));
    section(&mut html, "Reward model", &garm(report));
    section(&mut html, "Reinforcement learning", &rl(report));
    section(&mut html, "Suggestions before and after", &samples(report));
    section(&mut html, "Lineage", &lineage(report));
    html.push_str("</main></body></html>\n");
    html
}

fn section(html: &mut String, title: &str, body: &str) {
    let _ = write!(html, "<section><h2>{title}</h2>{body}</section>");
}

fn list(items: &[String]) -> String {
    let items: String = items.iter().map(|i| format!("<li>{}</li>", escape(i))).collect();
    format!("<ul>{items}</ul>")
}

/// A table; the first column is a name, the others are numbers. `rows` are escaped here.
fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| -> String {
        let cell = |(i, c): (usize, &String)| {
            if i == 0 { format!("<th scope=\"row\">{}</th>", escape(c)) } else { format!("<td>{}</td>", escape(c)) }
        };
        row.iter().enumerate().map(cell).collect()
    };
    let head: String = head.iter().map(|h| format!("<th scope=\"col\">{}</th>", escape(h))).collect();
    let body: String = rows.iter().map(|r| format!("<tr>{}</tr>", cells(r))).collect();
    format!(
        "<div class=\"scroll\"><table><caption>{}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>",
        escape(caption)
    )
}

fn figure(plot: &str, caption: &str) -> String {
    format!("<figure>{plot}<figcaption>{}</figcaption></figure>", escape(caption))
}

fn data(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .data
        .iter()
        .map(|d| {
            let both = |(train, held_out): (usize, usize)| format!("{train} / {held_out}");
            vec![d.source.clone(), d.n_records.to_string(), both(d.n_sft), both(d.n_pairs), both(d.n_anchors)]
        })
        .collect();
    table(
        "Examples made from the log: train / held out. The split is by user, query or test, and by time where a data set is large enough, never by row.",
        &["data set", "records", "SFT examples", "pairs", "anchors"],
        &rows,
    ) + &preferences(report)
}

/// What was left out, what the click model could tell, and what the pairs rest on.
fn preferences(report: &Report) -> String {
    let lines = report.preferences.lines();
    let mut html = if lines.is_empty() { String::new() } else { list(&lines) };
    let rows: Vec<Vec<String>> = report
        .preferences
        .sources
        .iter()
        .flat_map(|s| s.pairs.iter().map(|p| (s.source.clone(), p)))
        .map(|(source, p)| {
            let kind = format!("{:?}", p.kind).to_lowercase();
            vec![format!("{source}, {kind}"), p.n_train.to_string(), p.n_held_out.to_string()]
        })
        .collect();
    if !rows.is_empty() {
        let shared = report.preferences.n_pairs_on_both_sides;
        html.push_str(&table(
            &format!("What the pairs rest on. {shared} held-out pairs compare two texts that training compares too, by other people's clicks."),
            &["pairs", "train", "held out"],
            &rows,
        ));
    }
    html
}

fn sft(report: &Report) -> String {
    let s = &report.sft;
    let plot = LinePlot {
        x_label: "step".into(),
        y_label: "nats per token".into(),
        series: series(&s.curves, |name| name.contains("loss") || name.contains("nll")),
        levels: vec![("trigram".into(), s.ngram_nll), ("trigram with prompt cache".into(), s.cached_ngram_nll)],
    };
    let rows = [
        ("untrained network", s.held_out_nll_before),
        ("trigram, Kneser-Ney", s.ngram_nll),
        ("trigram with prompt cache", s.cached_ngram_nll),
        ("SFT policy", s.held_out_nll),
    ]
    .map(|(name, nll)| vec![name.to_owned(), number(nll, 3), number(nll.exp(), 1)]);
    figure(
        &plot.svg(),
        "Loss while training; the dashed levels are n-gram models of the same training texts on the held-out suggestions. Below them the network has learned more than word order.",
    ) + &table(
        &format!("Held-out suggestions, {} tokens; lower is better.", s.n_held_out_tokens),
        &["model", "nats per token", "perplexity"],
        &rows,
    )
}

fn garm(report: &Report) -> String {
    let plot = LinePlot {
        x_label: "step".into(),
        y_label: "nats per pair".into(),
        series: series(&report.garm.curves, |name| name.contains("loss") || name.contains("nll")),
        levels: Vec::new(),
    };
    let mut html = figure(&plot.svg(), "Losses of the reward model while training.");
    for source in &report.garm.sources {
        html.push_str(&garm_source(source));
    }
    let rows: Vec<Vec<String>> = report
        .garm
        .odd_text
        .iter()
        .map(|o| {
            vec![
                o.kind.clone(),
                o.n.to_string(),
                number(o.epistemic_auroc, 3),
                number(o.aleatoric_auroc, 3),
                number(o.mean_auroc, 3),
            ]
        })
        .collect();
    html.push_str(&table(
        "Odd text against logged held-out suggestions: AUROC of each part of GaRM's opinion (0.5 tells nothing, 1 separates). The epistemic spread is the part that should.",
        &["kind of text", "texts", "epistemic std", "aleatoric std", "lower mean"],
        &rows,
    ));
    let _ = write!(
        html,
        "<p>Temperature {}, fitted to pairs set aside from training (1: there were too few, or it was calibrated; above 1 the model was too sure); the means are divided by it in all figures, which is spreads as many times as wide in another unit.</p>",
        number(report.garm.temperature, 3)
    );
    html
}

const MODEL_COLUMNS: [&str; 8] = [
    "model",
    "pair accuracy",
    "NLL, nats",
    "ECE",
    "ECE, bins of equal size",
    "Brier",
    "AURC",
    "spread: rank correlation",
];

fn model_rows(models: &[ModelFigures]) -> Vec<Vec<String>> {
    let row = |m: &ModelFigures| {
        vec![
            m.model.clone(),
            interval(m.accuracy, m.accuracy_interval),
            interval(m.nll, m.nll_interval),
            number(m.ece, 3),
            number(m.adaptive_ece, 3),
            number(m.brier, 4),
            number(m.aurc, 3),
            m.spread_spearman.map_or_else(|| "–".to_owned(), |s| number(s, 3)),
        ]
    };
    models.iter().map(row).collect()
}

fn garm_source(source: &SourceFigures) -> String {
    let mut html = format!("<h3>{}</h3>", escape(&source.source));
    html += &table(
        &format!(
            "{} held-out pairs of {} groups; intervals are 95%, from resampling groups. The labels themselves leave {} nats per pair, which no model can go below. Case V is linear in the policy's frozen trunk, pointwise logistic a regression of single clicks on words; AURC is the share of wrong orders, averaged over keeping the surest pairs alone to all of them.",
            source.n_pairs,
            source.n_groups,
            number(source.label_entropy, 3)
        ),
        &MODEL_COLUMNS,
        &model_rows(&source.models),
    );
    if let Some(clear) = &source.clear {
        let caption = format!("The {} pairs whose counts differ beyond chance, |z| above 1.96.", clear.n_pairs);
        html += &table(&caption, &MODEL_COLUMNS, &model_rows(&clear.models));
    }
    if let Some(d) = source.dispersion {
        html += &dispersion(&d);
    }
    html += &figure(
        &reliability_svg(&source.reliability),
        "GaRM's probabilities against what happened, each pair seen from both sides; area is the number of pairs, the dashed diagonal is perfect.",
    );
    html
}

fn dispersion(d: &Dispersion) -> String {
    let rows = [
        ("variance, rank correlation", d.spearman),
        ("logits for a unit of mean", d.slope),
        ("mean squared z-score", d.z_score_variance),
        ("CRPS, logits", d.crps),
        ("CRPS of one width for all", d.crps_of_constant),
    ]
    .map(|(name, value)| vec![name.to_owned(), number(value, 3)]);
    let caption = format!(
        "GaRM's spread against the true counts of {} texts, each within its test. Rank correlation with how far texts stray beyond sampling noise; a mean squared z-score of 1 is a spread as wide as they do (0.8 to 1.25 will do, above it is too narrow); CRPS is the distance of the distribution to what happened, 0 is best.",
        d.n_texts
    );
    table(&caption, &["figure", "value"], &rows)
}

fn rl(report: &Report) -> String {
    let plot = |names: &[&str], y_label: &str, caption: &str| {
        let plot = LinePlot {
            x_label: "step".into(),
            y_label: y_label.into(),
            series: series(&report.rl.curves, |name| names.contains(&name)),
            levels: Vec::new(),
        };
        figure(&plot.svg(), caption)
    };
    let mut html = plot(
        &["reward_mean"],
        "proxy reward",
        "GaRM's mean less its penalties for spread, over the rollouts of each step. It is the quantity being optimised, so its rise alone proves nothing.",
    );
    html += &plot(
        &["gate_failure_rate", "veto_rate"],
        "share of rollouts",
        "Rollouts that failed the hard gate (length, copies, unfinished text), and those whose advantage the out-of-distribution veto cut.",
    );
    html += &plot(&["kl_nats"], "nats per suggestion", "Distance to the SFT policy.");
    html += &plot(
        &["distinct_2"],
        "distinct-2",
        "Different word pairs over all word pairs of a step; a fall means repetition.",
    );
    let rows: Vec<Vec<String>> = report
        .policies
        .iter()
        .map(|p| {
            vec![
                p.policy.clone(),
                p.n_suggestions.to_string(),
                interval(p.reward_mean, p.reward_interval),
                number(p.epistemic_std_mean, 3),
                number(p.gate_failure_rate, 3),
                number(p.copy_rate, 3),
                number(p.duplicate_rate, 3),
                number(p.distinct_1, 3),
                number(p.distinct_2, 3),
                number(p.self_bleu_2, 3),
                number(p.n_words_mean, 2),
            ]
        })
        .collect();
    html + &table(
        "Suggestions drawn at temperature 1 for held-out prompts. Reward is GaRM's mean, the training signal of RL.",
        &[
            "policy",
            "suggestions",
            "reward mean",
            "epistemic std",
            "gate failures",
            "copies",
            "repeats",
            "distinct-1",
            "distinct-2",
            "self-BLEU-2",
            "words",
        ],
        &rows,
    )
}

fn samples(report: &Report) -> String {
    let mut html = String::from(
        "<p>Held-out prompts, not chosen by hand. Behind each suggestion: GaRM's mean ± spread (aleatoric and epistemic together).</p>",
    );
    html.extend(report.samples.iter().map(sample));
    html
}

fn sample(sample: &SamplePrompt) -> String {
    let turns: String = sample
        .prompt
        .turns
        .iter()
        .map(|t| {
            let who = if t.role == Role::User { "user" } else { "assistant" };
            format!("<p class=\"turn {who}\">{}</p>", escape(&t.text))
        })
        .collect();
    let column = |title: &str, texts: &[ScoredText]| {
        let items: String = texts
            .iter()
            .map(|t| {
                let score = t.score.map_or_else(
                    || "not scored".to_owned(),
                    |s| format!("{} ± {}", number(s.reward_mean.into(), 2), number(s.reward_std().into(), 2)),
                );
                format!("<li>{} <small>{score}</small></li>", escape(&t.text))
            })
            .collect();
        format!("<div><h4>{title}</h4><ul>{items}</ul></div>")
    };
    format!(
        "<article>{turns}<div class=\"columns\">{}{}</div></article>",
        column("after SFT", &sample.before),
        column("after RL", &sample.after)
    )
}

fn lineage(report: &Report) -> String {
    let l = &report.lineage;
    let mut rows: Vec<Vec<String>> = [
        ("command", l.command.clone()),
        ("checkpoint", report.checkpoint.clone()),
        ("data hash", l.data_hash.clone()),
        ("seed", l.config.seed.to_string()),
        ("device", l.device.clone()),
        ("parameters", l.n_params.to_string()),
        ("tokenizer", l.tokenizer_hash.clone()),
        ("commit", l.commit.clone().unwrap_or_else(|| "not recorded".into())),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .to_vec();
    rows.extend(l.wall_secs.iter().map(|(stage, secs)| vec![format!("{stage} took"), format!("{secs:.1} s")]));
    let config = serde_json::to_string_pretty(&l.config).unwrap_or_default();
    let mut html = table("What this run is a function of.", &["", ""], &rows);
    let _ = write!(html, "<details><summary>Configuration</summary><pre>{}</pre></details>", escape(&config));
    if !l.attribution.is_empty() {
        html += "<h3>Data sets</h3>";
        html += &list(&l.attribution);
    }
    html
}

fn series(curves: &[Curve], wanted: impl Fn(&str) -> bool) -> Vec<Series> {
    let points = |c: &Curve| c.points.iter().map(|&(step, v)| (step as f64, v)).collect();
    curves
        .iter()
        .filter(|c| wanted(&c.name))
        .map(|c| Series { name: c.name.replace('_', " "), points: points(c) })
        .collect()
}

fn number(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "undefined".to_owned() }
}

fn interval(value: f64, (low, high): (f64, f64)) -> String {
    format!("{} ({} to {})", number(value, 3), number(low, 3), number(high, 3))
}
