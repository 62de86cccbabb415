//! Lays assignments over the defaults, one key at a time, so that each error knows where its value came from.

use super::{Config, SECTIONS, SectionInfo, TaskKind};
use crate::{Error, Result};
use model::config::CocaConfig;
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// The configuration as a TOML table.
pub(super) fn to_table(config: &Config) -> Table {
    Table::try_from(config).expect("the configuration holds only types that TOML has")
}

/// The configuration while it is put together.
pub(super) struct Layers {
    table: Table,
    /// `section.key` to the place that set it last.
    places: BTreeMap<String, String>,
}

impl Layers {
    /// The defaults.
    pub(super) fn new() -> Layers {
        Layers { table: to_table(&Config::default()), places: BTreeMap::new() }
    }

    /// Lays a file over what is there; `name` is the file's name in errors.
    pub(super) fn file(&mut self, text: &str, name: &str) -> Result<()> {
        let line = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
        let parsed = DeTable::parse(text).map_err(|error| {
            let place = error.span().map_or(String::new(), |span| format!(":{}", line(span.start)));
            Error::invalid(format!("{name}{place}: {}", error.message()))
        })?;
        let plain: Table =
            toml::from_str(text).map_err(|error| Error::invalid(format!("{name}: {}", error.message())))?;
        for (section, value) in parsed.get_ref() {
            let place = |key: &Spanned<_>| format!("{name}:{}", line(key.span().start));
            let info = find_section(section.get_ref(), &place(section))?;
            let DeValue::Table(keys) = value.get_ref() else {
                let place = place(section);
                return Err(Error::invalid(format!(
                    "{place}: '{}' is a section: write [{0}] above its keys",
                    info.name
                )));
            };
            for key in keys.keys() {
                let value = plain[info.name][key.get_ref().as_ref()].clone();
                self.assign(info, key.get_ref(), value, &place(key))?;
            }
        }
        Ok(())
    }

    /// Lays one `section.key=value` over what is there. The value is TOML; what is not is a string.
    pub(super) fn set(&mut self, text: &str) -> Result<()> {
        let place = format!("--set {text}");
        let malformed =
            || Error::invalid(format!("{place}: write section.key=value, for example optimizer.learning_rate=3e-4"));
        let (path, raw) = text.split_once('=').ok_or_else(malformed)?;
        let mut path = path.trim().split('.');
        let (Some(section), Some(key)) = (path.next(), path.next()) else { return Err(malformed()) };
        let info = find_section(section, &place)?;
        let raw = raw.trim();
        let typed = toml::from_str::<Table>(&format!("value = {raw}")).ok().and_then(|mut table| table.remove("value"));
        let nested: Vec<&str> = path.collect();
        if nested.is_empty() {
            let literal = Value::String(raw.into());
            // `--set data.train=7` names a folder `7`: a value that is no fit as TOML may be one as a plain string.
            return match typed {
                Some(value) => self
                    .assign(info, key, value, &place)
                    .or_else(|error| self.assign(info, key, literal, &place).map_err(|_| error)),
                None => self.assign(info, key, literal, &place),
            };
        }
        // Deeper paths lead into a free table such as model.overrides: keep what it holds and change one leaf.
        let mut root =
            self.table.get(info.name).and_then(|section| section.get(key)).cloned().unwrap_or(Value::Boolean(false));
        if !root.is_table() {
            return Err(Error::invalid(format!("{place}: {}.{key} holds one value, nothing below it", info.name)));
        }
        let mut at = &mut root;
        for name in &nested {
            let Value::Table(table) = at else {
                return Err(Error::invalid(format!("{place}: there is a value, not a table, above '{name}'")));
            };
            at = table.entry(*name).or_insert_with(|| Value::Table(Table::new()));
        }
        *at = typed.unwrap_or_else(|| Value::String(raw.into()));
        self.assign(info, key, root, &place)
    }

    /// Sets one key after checking its name and type.
    fn assign(&mut self, section: &SectionInfo, key: &str, value: Value, place: &str) -> Result<()> {
        let Some(info) = section.keys.iter().find(|known| known.name == key) else {
            return Err(unknown_key(section, key, place));
        };
        let path = format!("{}.{key}", section.name);
        let alone =
            Table::from_iter([(section.name.to_owned(), Table::from_iter([(key.to_owned(), value.clone())]).into())]);
        if let Err(error) = alone.try_into::<Config>() {
            let choices = || info.choices.iter().map(|(name, _)| *name);
            let near = value.as_str().and_then(|word| nearest(word, choices()));
            let hint = near.map_or(String::new(), |name| format!("; did you mean {name}?"));
            return Err(Error::invalid(format!("{place}: {path}: {}{hint}", error.message())));
        }
        if let ("model.overrides", Value::Table(overrides)) = (path.as_str(), &value) {
            let sizes = serde_json::to_value(CocaConfig::preset("emoji")?);
            find_sizes(overrides, &sizes.map_err(|error| Error::invalid(error.to_string()))?, &path, place)?;
        }
        if let Some(Value::Table(keys)) = self.table.get_mut(section.name) {
            keys.insert(key.to_owned(), value);
        }
        self.places.insert(path, place.to_owned());
        Ok(())
    }

    /// The configuration, after a check of all ranges.
    pub(super) fn finish(self) -> Result<Config> {
        let config: Config = self.table.try_into().map_err(|error| Error::invalid(error.message().to_owned()))?;
        for (path, good, rule) in ranges(&config) {
            if !good {
                let place = self.places.get(path).map_or(String::new(), |place| format!("{place}: "));
                return Err(Error::invalid(format!("{place}{path} {rule}")));
            }
        }
        Ok(config)
    }
}

/// Most frames of a clip.
const MOST_FRAMES: usize = 1024;

/// Key, whether its value is in range, and the range in words.
fn ranges(config: &Config) -> Vec<(&'static str, bool, &'static str)> {
    let Config {
        task, data, augmentation, batch, optimizer, schedule, loss, ema, checkpoint, evaluation, logging, ..
    } = config;
    let is_task = task.kind != TaskKind::Pretrain;
    let share = |value: f64| (0.0..=1.0).contains(&value);
    let decay = |value: f64| (0.0..1.0).contains(&value);
    let not_negative = |value: f64| value >= 0.0 && value.is_finite();
    let at_least_1 = "must be at least 1";
    let share_rule = "must lie between 0 and 1";
    let decay_rule = "must be at least 0 and below 1";
    let not_negative_rule = "must be 0 or more, and finite";
    vec![
        ("task.answers", task.answers >= 2, "must be at least 2"),
        ("task.label_smoothing", decay(task.label_smoothing), decay_rule),
        ("task.blank_images", is_task || !task.blank_images, "is a control of tasks: set task.kind too"),
        ("data.frames", data.frames <= MOST_FRAMES, "must be at most 1024"),
        ("data.prefetch", data.prefetch >= 1, at_least_1),
        ("data.shuffle_buffer", data.shuffle_buffer >= 1, at_least_1),
        ("data.max_pixels", data.max_pixels >= 1, at_least_1),
        ("data.max_bad_share", share(data.max_bad_share), share_rule),
        ("augmentation.scale_min", share(augmentation.scale_min) && augmentation.scale_min > 0.0, share_rule),
        (
            "augmentation.scale_max",
            share(augmentation.scale_max) && augmentation.scale_max >= augmentation.scale_min,
            "must lie between augmentation.scale_min and 1",
        ),
        ("augmentation.ratio", augmentation.ratio >= 1.0 && augmentation.ratio.is_finite(), at_least_1),
        ("batch.size", batch.size >= 1, at_least_1),
        ("batch.accumulation", batch.accumulation >= 1, at_least_1),
        ("optimizer.learning_rate", not_negative(optimizer.learning_rate), not_negative_rule),
        (
            "optimizer.layer_decay",
            share(optimizer.layer_decay) && optimizer.layer_decay > 0.0,
            "must be above 0 and at most 1",
        ),
        ("optimizer.beta1", decay(optimizer.beta1), decay_rule),
        ("optimizer.beta2", decay(optimizer.beta2), decay_rule),
        ("optimizer.epsilon", not_negative(optimizer.epsilon), not_negative_rule),
        ("optimizer.weight_decay", not_negative(optimizer.weight_decay), not_negative_rule),
        ("optimizer.clip_norm", not_negative(optimizer.clip_norm), not_negative_rule),
        ("schedule.steps", schedule.steps >= 1, at_least_1),
        ("schedule.warmup_steps", schedule.warmup_steps <= schedule.steps, "must be at most schedule.steps"),
        ("schedule.minutes", not_negative(schedule.minutes), not_negative_rule),
        ("loss.contrastive_weight", not_negative(loss.contrastive_weight), not_negative_rule),
        ("loss.caption_weight", not_negative(loss.caption_weight), not_negative_rule),
        (
            "loss.caption_weight",
            is_task || loss.contrastive_weight + loss.caption_weight > 0.0,
            "and loss.contrastive_weight are both 0: nothing would be trained",
        ),
        ("ema.decay", decay(ema.decay), decay_rule),
        ("checkpoint.keep", checkpoint.keep >= 1, at_least_1),
        ("evaluation.batch_size", evaluation.batch_size >= 1, at_least_1),
        ("logging.outlier_window", logging.outlier_window >= 16, "must be at least 16"),
        ("logging.outlier_threshold", logging.outlier_threshold > 0.0, "must be positive"),
    ]
}

/// The section of this name, or an error with the nearest one.
fn find_section(name: &str, place: &str) -> Result<&'static SectionInfo> {
    SECTIONS.iter().find(|section| section.name == name).ok_or_else(|| {
        let home = SECTIONS.iter().find(|section| section.keys.iter().any(|key| key.name == name));
        let hint = match home {
            Some(section) => format!("'{name}' is a key of [{}]", section.name),
            None => suggest(name, SECTIONS.iter().map(|section| section.name.to_owned())),
        };
        Error::invalid(format!("{place}: there is no section '{name}'; {hint}"))
    })
}

/// The error of a key that its section does not have.
fn unknown_key(section: &SectionInfo, key: &str, place: &str) -> Error {
    let elsewhere = SECTIONS.iter().find(|other| other.keys.iter().any(|known| known.name == key));
    let hint = match elsewhere {
        Some(other) => format!("did you mean {}.{key}?", other.name),
        None => {
            let near = section.keys.iter().map(|known| format!("{}.{}", section.name, known.name));
            suggest(&format!("{}.{key}", section.name), near)
        }
    };
    Error::invalid(format!("{place}: there is no key '{}.{key}'; {hint}", section.name))
}

/// Checks that every key of `model.overrides` is one of a model's; its value is judged with the whole architecture.
fn find_sizes(overrides: &Table, sizes: &serde_json::Value, path: &str, place: &str) -> Result<()> {
    // Which keys a pooler has depends on its layout, which may be set later.
    let Some(sizes) = sizes.as_object().filter(|sizes| !sizes.contains_key("layout")) else { return Ok(()) };
    for (key, value) in overrides {
        let Some(below) = sizes.get(key) else {
            let hint = suggest(key, sizes.keys().cloned());
            return Err(Error::invalid(format!("{place}: there is no key '{path}.{key}'; {hint}")));
        };
        if let Value::Table(overrides) = value {
            find_sizes(overrides, below, &format!("{path}.{key}"), place)?;
        }
    }
    Ok(())
}

/// "did you mean …" for the nearest of the names, or all of them if none is near.
fn suggest(name: &str, known: impl Iterator<Item = String>) -> String {
    let known: Vec<String> = known.collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there are {}", known.join(", ")),
    }
}

/// The nearest of the names, if it is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(name, candidate);
    known.min_by_key(distance).filter(|nearest| distance(nearest) <= 1.max(name.len() / 3))
}
