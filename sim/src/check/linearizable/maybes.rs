//! Unknown operations that are called and may or may not have a place: by kind, and of those that
//! are alike the one called first in front.

use std::collections::BTreeMap;

use crate::check::Kind;

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Maybes {
    writes: BTreeMap<usize, Vec<usize>>,
    grants: BTreeMap<usize, Vec<usize>>,
    compactions: BTreeMap<usize, Vec<usize>>,
}

impl Maybes {
    fn of(&mut self, kind: Kind) -> Option<&mut BTreeMap<usize, Vec<usize>>> {
        match kind {
            Kind::MaybeWrite => Some(&mut self.writes),
            Kind::MaybeGrant => Some(&mut self.grants),
            Kind::MaybeCompact => Some(&mut self.compactions),
            Kind::Aside
            | Kind::Read(_)
            | Kind::Write(_)
            | Kind::Grant(_)
            | Kind::Revoke(_)
            | Kind::Compact => None,
        }
    }

    /// One more is called.
    pub(super) fn push(&mut self, kind: Kind, class: usize, place: usize) {
        let classes = self.of(kind).expect("only unknown operations are pushed");
        classes.entry(class).or_default().push(place);
    }

    /// One has its place in every order.
    pub(super) fn remove(&mut self, kind: Kind, class: usize, place: usize) {
        let Some(classes) = self.of(kind) else { return };
        let Some(alike) = classes.get_mut(&class) else {
            return;
        };
        alike.retain(|other| *other != place);
        if alike.is_empty() {
            classes.remove(&class);
        }
    }

    /// Of each class of writes the first that is not placed.
    pub(super) fn writes<'a>(&'a self, placed: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        first_free(&self.writes, placed)
    }

    /// Of each class of grants the first that is not placed.
    pub(super) fn grants<'a>(&'a self, placed: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        first_free(&self.grants, placed)
    }

    /// Of each class of compactions the first that is not placed.
    pub(super) fn compactions<'a>(
        &'a self,
        placed: &'a [usize],
    ) -> impl Iterator<Item = usize> + 'a {
        first_free(&self.compactions, placed)
    }
}

fn first_free<'a>(
    classes: &'a BTreeMap<usize, Vec<usize>>,
    placed: &'a [usize],
) -> impl Iterator<Item = usize> + 'a {
    let free = |place: &&usize| !placed.contains(place);
    let firsts = classes.values().map(move |alike| alike.iter().find(free));
    firsts.flatten().copied()
}
