//! The texts of a task: what is asked, and what is answered to it.

use crate::config::TextConfig;
use crate::packing::PackedText;
use engine::{Error, Result};

/// A batch of texts. The head reads the decoder's rows of the question alone. An answer may follow it for the caption loss:
/// the decoder is causal, so the question's rows are the same with it as without.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskTexts {
    /// Questions, each with its answer if it has one.
    pub packed: PackedText,
    /// The decoder rows of the questions.
    pub pooled_rows: Vec<i32>,
    /// First pooled row of each text, and their number: `[texts + 1]`.
    pub pooled_offsets: Vec<i32>,
}

impl TaskTexts {
    /// Packs questions, and the answer of each if there are answers; all as a tokenizer gives them, start and end included.
    /// What is longer than the context is cut and keeps its end.
    ///
    /// # Errors
    /// A text is shorter than its start and end, or holds an id outside the vocabulary; there is not one answer for each
    /// question.
    pub fn new<T: AsRef<[i32]>, U: AsRef<[i32]>>(
        questions: &[T],
        answers: &[Option<U>],
        config: &TextConfig,
    ) -> Result<TaskTexts> {
        if !answers.is_empty() && answers.len() != questions.len() {
            let (given, wanted) = (answers.len(), questions.len());
            return Err(Error::invalid(format!("{given} answers for {wanted} questions")));
        }
        let mut texts = Vec::with_capacity(questions.len());
        for (index, question) in questions.iter().enumerate() {
            let answer = answers.get(index).and_then(Option::as_ref).map(AsRef::as_ref);
            let (Some((&end, asked)), true) = (question.as_ref().split_last(), question.as_ref().len() >= 2) else {
                return Err(Error::invalid(format!("text {index} has no start and end")));
            };
            let said = match answer {
                None => &[end],
                Some([_, said @ ..]) if !said.is_empty() => said,
                Some(_) => return Err(Error::invalid(format!("the answer to text {index} has no start and end"))),
            };
            let mut text = [asked, said].concat();
            if text.len() > config.context_length {
                text.truncate(config.context_length);
                text[config.context_length - 1] = said[said.len() - 1];
            }
            texts.push(text);
        }
        let packed = PackedText::new(&texts, config)?;
        let (mut pooled_rows, mut pooled_offsets) = (Vec::new(), vec![0]);
        for (question, rows) in questions.iter().zip(packed.decoder_offsets.windows(2)) {
            let asked = (question.as_ref().len() - 1) as i32;
            pooled_rows.extend(rows[0]..rows[1].min(rows[0] + asked));
            pooled_offsets.push(pooled_rows.len() as i32);
        }
        Ok(TaskTexts { packed, pooled_rows, pooled_offsets })
    }

    /// Adds texts without rows until there are `texts`, so that a short last batch fits a plan.
    pub(super) fn pad_to(&mut self, texts: usize) {
        self.packed.pad_to(texts);
        self.pooled_offsets.resize(texts + 1, self.pooled_rows.len() as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CocaConfig;

    fn config(context_length: usize) -> TextConfig {
        TextConfig { context_length, ..CocaConfig::preset("emoji").unwrap().text }
    }

    #[test]
    fn answers_follow_and_are_not_pooled() {
        let questions: [&[i32]; 3] = [&[1, 5, 6, 2], &[1, 2], &[1, 7, 2]];
        let answers = [Some(vec![1, 8, 9, 2]), Some(vec![1, 4, 2]), None];
        let texts = TaskTexts::new(&questions, &answers, &config(8)).unwrap();
        assert_eq!(
            texts.packed,
            PackedText::new(&[&[1, 5, 6, 8, 9, 2][..], &[1, 4, 2], &[1, 7, 2]], &config(8)).unwrap()
        );
        assert_eq!((texts.pooled_rows, texts.pooled_offsets), (vec![0, 1, 2, 5, 7, 8], vec![0, 3, 4, 6]));
        // Without answers every decoder row is the question's.
        let alone = TaskTexts::new::<_, Vec<i32>>(&questions, &[], &config(8)).unwrap();
        assert_eq!(alone.pooled_rows, (0..6).collect::<Vec<i32>>());
        assert_eq!(alone.pooled_offsets, alone.packed.decoder_offsets);
    }

    #[test]
    fn what_is_too_long_keeps_its_end() {
        let texts = TaskTexts::new(&[[1, 5, 6, 7, 2]], &[Some([1, 8, 9, 2])], &config(6)).unwrap();
        assert_eq!(texts.packed, PackedText::new(&[[1, 5, 6, 7, 8, 2]], &config(6)).unwrap());
        let texts = TaskTexts::new(&[[1, 5, 6, 7, 2]], &[Some([1, 8, 9, 2])], &config(3)).unwrap();
        assert_eq!(texts.packed, PackedText::new(&[[1, 5, 2]], &config(3)).unwrap());
        assert_eq!(texts.pooled_rows, [0, 1]);
    }

    #[test]
    fn wrong_texts_are_named() {
        let error = |questions: &[Vec<i32>], answers: &[Option<Vec<i32>>]| {
            TaskTexts::new(questions, answers, &config(8)).unwrap_err().to_string()
        };
        assert!(error(&[vec![1, 2], vec![1]], &[]).contains("text 1 has no start and end"));
        assert!(error(&[vec![1, 2]], &[Some(vec![1])]).contains("the answer to text 0"));
        assert!(error(&[vec![1, 2]], &[None, None]).contains("2 answers for 1 questions"));
        assert!(error(&[vec![1, 99999, 2]], &[]).contains("token 99999"));
    }
}
