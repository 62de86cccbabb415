//! Questions about the bundled emoji as a source: a sample for each.

use super::emoji::picture;
use super::{Labels, Part, Raw, Source};
use crate::Result;
use crate::data::Fault;
use crate::data::emoji::{EmojiSet, Split, questions};
use crate::data::scenes::questions::Question;
use std::sync::Arc;

/// What is asked about one split of the bundled set.
#[derive(Clone, Debug)]
pub struct EmojiQuestions {
    set: Arc<EmojiSet>,
    /// Each with the drawing that it is about.
    questions: Arc<[(usize, Question)]>,
    split: Split,
}

impl EmojiQuestions {
    /// The questions about a split of the set in this program.
    ///
    /// # Errors
    /// As [`EmojiSet::bundled`].
    pub fn bundled(split: Split) -> Result<EmojiQuestions> {
        let set = Arc::new(EmojiSet::bundled()?);
        let questions = questions(&set, split).into();
        Ok(EmojiQuestions { set, questions, split })
    }
}

impl Source for EmojiQuestions {
    fn name(&self) -> String {
        format!("emoji-questions:{}", self.split.name())
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }
}

impl Part for EmojiQuestions {
    fn len(&self) -> usize {
        self.questions.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let (drawing, Question { kind, text, answer }) = &self.questions[index];
        let labels = Labels { class: Some(answer.clone()), domain: Some((*kind).into()), ..Labels::default() };
        Ok(Raw {
            key: format!("{}#{kind}", self.set.key(*drawing)),
            images: vec![picture(&self.set, *drawing)],
            captions: vec![text.clone()],
            keywords: Vec::new(),
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RawImage;

    #[test]
    fn a_question_comes_with_its_drawing_and_answer() {
        let split = Split::parse("noto-v1").unwrap();
        let source = EmojiQuestions::bundled(split).unwrap();
        for index in [0, Part::len(&source) / 2, Part::len(&source) - 1] {
            let raw = source.sample(index).unwrap();
            let (drawing, question) = &source.questions[index];
            assert!(source.set.split(split).contains(drawing));
            assert_eq!(
                (&raw.captions, raw.labels.class.as_ref()),
                (&vec![question.text.clone()], Some(&question.answer))
            );
            let [RawImage::Drawing { rgb, .. }] = &raw.images[..] else { panic!("{:?}", raw.key) };
            assert_eq!(*rgb, source.set.rgb(*drawing, [255; 3]));
            let concept = &source.set.concepts()[source.set.drawings()[*drawing].concept];
            assert_eq!(raw.key, format!("noto-v1/{}#{}", concept.hexcode, question.kind));
            assert_eq!(raw.labels.domain.as_deref(), Some(question.kind));
        }
    }
}
