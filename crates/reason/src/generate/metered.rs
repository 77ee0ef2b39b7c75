//! A generator with budgets: tokens and time, told once when they are used up.

use std::time::{Duration, Instant};

use super::{Budget, Event, Generated, Generator, Launch, Prompt, Slot, Source, Usage};

/// What an answer may cost; none: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// Tokens written.
    pub tokens: Option<usize>,
    /// Seconds from the first launch.
    pub seconds: Option<f64>,
}

/// Another generator under budgets.
pub struct Metered<'g> {
    inner: &'g mut dyn Generator,
    budgets: Budgets,
    start: Instant,
    told: bool,
}

impl<'g> Metered<'g> {
    /// Time counts from now.
    pub fn new(inner: &'g mut dyn Generator, budgets: Budgets) -> Self {
        Self { inner, budgets, start: Instant::now(), told: false }
    }

    fn used_up(&self) -> Option<Budget> {
        if self.budgets.tokens.is_some_and(|n| self.inner.usage().decode >= n) {
            return Some(Budget::Tokens);
        }
        let late = self.deadline().is_some_and(|d| Instant::now() >= d);
        late.then_some(Budget::Seconds)
    }

    fn deadline(&self) -> Option<Instant> {
        let seconds = self.budgets.seconds?;
        self.start.checked_add(Duration::try_from_secs_f64(seconds.max(0.0)).ok()?)
    }
}

impl Generator for Metered<'_> {
    fn source(&self) -> &Source {
        self.inner.source()
    }
    fn opens_thought(&mut self, prompt: &Prompt) -> Result<bool, String> {
        self.inner.opens_thought(prompt)
    }
    fn launch(&mut self, launch: Launch) {
        self.inner.launch(launch);
    }
    fn next(&mut self, until: Option<Instant>) -> Event {
        if !self.told
            && let Some(budget) = self.used_up()
        {
            self.told = true;
            return Event::Exhausted(budget);
        }
        let deadline = if self.told { None } else { self.deadline() };
        match self.inner.next(until.or(deadline)) {
            Event::Quiet if !self.told && until.is_none() => {
                self.told = true;
                Event::Exhausted(Budget::Seconds)
            }
            event => event,
        }
    }
    fn cancel(&mut self, slot: Slot) -> Option<Generated> {
        self.inner.cancel(slot)
    }
    fn score(&mut self, slot: Slot, text: &str, choices: &[&str]) -> Result<Vec<f64>, String> {
        self.inner.score(slot, text, choices)
    }
    fn choose(&mut self, prompt: &Prompt, choices: &[&str]) -> Result<Vec<f64>, String> {
        self.inner.choose(prompt, choices)
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
    fn seconds(&self) -> f64 {
        self.inner.seconds()
    }
}
