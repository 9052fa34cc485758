//! A table from its cells.

use leptos::prelude::*;

/// Headings, and rows whose first cell names the row.
pub fn table(testid: &'static str, head: &'static [&'static str], mut rows: Vec<Vec<AnyView>>) -> AnyView {
    if rows.is_empty() {
        rows.push(vec!["none yet".into_any()]);
    }
    let cell = |(idx, cell): (usize, AnyView)| match idx {
        0 => view! { <th scope="row">{cell}</th> }.into_any(),
        _ => view! { <td>{cell}</td> }.into_any(),
    };
    let row = |cells: Vec<AnyView>| view! { <tr>{cells.into_iter().enumerate().map(cell).collect_view()}</tr> };
    view! {
        <div class="scroll"><table data-testid=testid>
            <thead><tr>{head.iter().map(|name| view! { <th>{*name}</th> }).collect_view()}</tr></thead>
            <tbody>{rows.into_iter().map(row).collect_view()}</tbody>
        </table></div>
    }
    .into_any()
}
