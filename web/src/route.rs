//! Addresses inside the page: `#/data`, `#/train`, `#/train/r3`, `#/checkpoints`, `#/preview`, `#/experiments`, `#/server`. Pure.

/// A page: the steps of the loop, and what belongs to none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The click log.
    Data,
    /// Runs; with an id, that run.
    Train(Option<String>),
    /// What was trained, and which of it is in production.
    Checkpoints,
    /// Suggestions in the page.
    Preview,
    /// Checkpoints on live traffic.
    Experiments,
    /// Who may come in, and who asked for what.
    Server,
}

impl Route {
    /// Reads `location.hash`; what is not known leads to Data, the first step.
    pub fn parse(hash: &str) -> Self {
        let path = hash.trim_start_matches('#').trim_matches('/');
        let mut parts = path.split('/');
        match (parts.next(), parts.next()) {
            (Some("train"), id) => Self::Train(id.filter(|id| !id.is_empty()).map(str::to_owned)),
            (Some("checkpoints"), _) => Self::Checkpoints,
            (Some("preview"), _) => Self::Preview,
            (Some("experiments"), _) => Self::Experiments,
            (Some("server"), _) => Self::Server,
            _ => Self::Data,
        }
    }

    /// The address.
    pub fn href(&self) -> String {
        match self {
            Self::Data => "#/data".into(),
            Self::Train(None) => "#/train".into(),
            Self::Train(Some(id)) => format!("#/train/{id}"),
            Self::Checkpoints => "#/checkpoints".into(),
            Self::Preview => "#/preview".into(),
            Self::Experiments => "#/experiments".into(),
            Self::Server => "#/server".into(),
        }
    }

    /// Heading and window title.
    pub fn title(&self) -> &'static str {
        match self {
            Self::Data => "Data",
            Self::Train(_) => "Train",
            Self::Checkpoints => "Checkpoints",
            Self::Preview => "Preview",
            Self::Experiments => "Experiments",
            Self::Server => "Server",
        }
    }

    /// Whether both belong to the same page.
    pub fn same_page(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_reads_back() {
        let (train, run) = (Route::Train(None), Route::Train(Some("r3".into())));
        for route in [Route::Data, train, run, Route::Checkpoints, Route::Preview, Route::Experiments, Route::Server] {
            assert_eq!(Route::parse(&route.href()), route);
        }
    }

    #[test]
    fn the_unknown_leads_to_data() {
        for hash in ["", "#", "#/", "#/nowhere", "data"] {
            assert_eq!(Route::parse(hash), Route::Data, "{hash}");
        }
        assert_eq!(Route::parse("#/train/"), Route::Train(None));
    }
}
