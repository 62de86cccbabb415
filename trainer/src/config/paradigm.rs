//! The paradigms that the paper sets CoCa beside, as changes of one configuration: the same towers, data and steps.

use clap::ValueEnum;

/// What a model is trained to do. It changes a configuration before anything else that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Paradigm {
    /// The image tower as a classifier, of labels or else first captions: task.kind = "classes"
    SingleEncoder,
    /// The contrastive loss alone, as CLIP and ALIGN: loss.caption_weight = 0
    DualEncoder,
    /// The captioning loss alone, as SimVLM: loss.contrastive_weight = 0
    EncoderDecoder,
    /// Both losses: loss.contrastive_weight = 1, loss.caption_weight = 2
    Coca,
}

impl Paradigm {
    /// The changes, each as `section.key=value`.
    pub fn sets(self) -> &'static [&'static str] {
        match self {
            Paradigm::SingleEncoder => &["task.kind=classes"],
            Paradigm::DualEncoder => &["task.kind=pretrain", "loss.contrastive_weight=1", "loss.caption_weight=0"],
            Paradigm::EncoderDecoder => &["task.kind=pretrain", "loss.contrastive_weight=0", "loss.caption_weight=2"],
            Paradigm::Coca => &["task.kind=pretrain", "loss.contrastive_weight=1", "loss.caption_weight=2"],
        }
    }
}
