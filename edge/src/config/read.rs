//! Walks a parsed TOML document: typed access, unknown keys, missing keys, positions. Knows no key by name.
#![forbid(unsafe_code)]

use super::problem::{Sink, nearest};
use super::value::Parsed;
use std::cell::RefCell;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A table of the file, with the keys that may stand in it.
pub(super) struct Section<'a> {
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
    sink: &'a RefCell<Sink>,
}

/// A value of the file and its place.
pub(super) struct Item<'a> {
    /// Dotted path from the top, for messages.
    pub(super) path: String,
    /// Bytes of the value in the file.
    pub(super) span: Range<usize>,
    value: &'a DeValue<'a>,
    sink: &'a RefCell<Sink>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub(super) fn top(table: &'a DeTable<'a>, sink: &'a RefCell<Sink>, known: &[&str]) -> Self {
        let section = Section { path: String::new(), span: 0..0, table, sink };
        section.refuse_unknown(known);
        section
    }

    fn refuse_unknown(&self, known: &[&str]) {
        for (key, _) in self.table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let place = if self.path.is_empty() { "at the top".into() } else { format!("in {}", self.path) };
            let right = match nearest(key.get_ref(), known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.sink
                .borrow_mut()
                .report(&key.span(), format!("unknown key {:?} {place}; {right}", key.get_ref()));
        }
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref() == key)?;
        Some(Item::new(join(&self.path, key), value, self.sink))
    }

    /// Whether `key` is set to true; it need not be there. `None`: it is something else, and was reported.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map_or(Some(false), |item| item.flag())
    }

    /// The value of `key`; reported where the section begins if it is not there.
    pub(super) fn require(&self, key: &str, example: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            let path = join(&self.path, key);
            self.sink.borrow_mut().report(&self.span, format!("{path} is missing; write {example}"));
        }
        item
    }

    /// The tables `[path.NAME]`, by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Range<usize>, Item<'a>)> {
        let named = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            (name.as_ref(), key.span(), Item::new(join(&self.path, name), value, self.sink))
        };
        self.table.iter().map(named)
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

impl<'a> Item<'a> {
    fn new(path: String, value: &'a Spanned<DeValue<'a>>, sink: &'a RefCell<Sink>) -> Self {
        Item { path, span: value.span(), value: value.get_ref(), sink }
    }

    /// The same value, reported at another place.
    pub(super) fn at(self, span: Range<usize>) -> Self {
        Item { span, ..self }
    }

    /// Reports what is wrong with this value.
    pub(super) fn report(&self, message: &str) {
        self.sink.borrow_mut().report(&self.span, format!("{}: {message}", self.path));
    }

    /// Says what should be known about this value, though it is right.
    pub(super) fn warn(&self, message: &str) {
        self.sink.borrow_mut().warn(&self.span, format!("{}: {message}", self.path));
    }

    fn mismatch<T>(&self, right: &str) -> Option<T> {
        let article = if self.value.type_str().starts_with(['a', 'i']) { "an" } else { "a" };
        self.report(&format!("this is {article} {}; {right}", self.value.type_str()));
        None
    }

    /// A table whose keys are `known`.
    pub(super) fn section(&self, known: &[&str]) -> Option<Section<'a>> {
        let section = self.table(&format!("write a table of {}", known.join(", ")))?;
        section.refuse_unknown(known);
        Some(section)
    }

    /// A table with keys of the operator's choice.
    pub(super) fn any_section(&self) -> Option<Section<'a>> {
        self.table("write a table, one section for each name")
    }

    fn table(&self, right: &str) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            return self.mismatch(right);
        };
        Some(Section { path: self.path.clone(), span: self.span.clone(), table, sink: self.sink })
    }

    /// The elements of a list.
    pub(super) fn list(&self, right: &str) -> Option<Vec<Item<'a>>> {
        let Some(array) = self.value.as_array() else {
            return self.mismatch(right);
        };
        let element = |(i, value)| Item::new(format!("{}[{i}]", self.path), value, self.sink);
        Some(array.iter().enumerate().map(element).collect())
    }

    /// A string.
    pub(super) fn text(&self, right: &str) -> Option<&'a str> {
        match self.value.as_str() {
            Some(text) => Some(text),
            None => self.mismatch(right),
        }
    }

    /// Whether this is a string (where a table is another way to say the same).
    pub(super) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// A string that `parse` understands.
    pub(super) fn parse<T>(&self, right: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        match parse(self.text(right)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.report(&message);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let all = format!("write one of {}", all.join(", "));
        let text = self.text(&all)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            match nearest(text, words.iter().map(|(word, _)| *word)) {
                Some(near) => self.report(&format!("{text:?} is not known; did you mean {near:?}? {all}")),
                None => self.report(&format!("{text:?} is not known; {all}")),
            }
        }
        found.map(|(_, value)| *value)
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let (min, max) = (bounds.start(), bounds.end());
        let right = format!("write a whole number from {min} to {max}");
        let Some(integer) = self.value.as_integer() else {
            return self.mismatch(&right);
        };
        let number =
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|n| u64::try_from(n).ok());
        match number.filter(|n| bounds.contains(n)) {
            Some(number) => Some(number),
            None => {
                self.report(&format!("{} is out of bounds; {right}", integer.as_str()));
                None
            }
        }
    }

    /// A list of 1 to `max` different values that `parse` understands; `None` if any is wrong.
    pub(super) fn values<T: PartialEq>(
        &self,
        right: &str,
        max: usize,
        parse: impl Fn(&str) -> Parsed<T> + Copy,
    ) -> Option<Vec<T>> {
        let elements = self.list(right)?;
        if elements.is_empty() {
            self.report(&format!("the list is empty; {right}"));
        }
        if elements.len() > max {
            self.report(&format!("{} are too many; write at most {max}", elements.len()));
            return None;
        }
        let mut good = Vec::with_capacity(elements.len());
        for element in &elements {
            let Some(value) = element.parse(right, parse) else { continue };
            if good.contains(&value) {
                element.report("the same stands earlier in the list; remove one");
            }
            good.push(value);
        }
        (!elements.is_empty() && good.len() == elements.len()).then_some(good)
    }

    /// Whether this is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether this is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The line of a byte of the file.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.sink.borrow().line(offset)
    }

    /// `true` or `false`.
    fn flag(&self) -> Option<bool> {
        match self.value.as_bool() {
            Some(flag) => Some(flag),
            None => self.mismatch("write true or false"),
        }
    }

    /// Whether this is a whole number.
    pub(super) fn is_number(&self) -> bool {
        self.value.is_integer()
    }
}
