//! A folder of images (at any depth), each with a `.txt` file of the same name: one caption a line.

use super::{
    IMAGE_EXTENSIONS, Labels, MAX_IMAGE_BYTES, MAX_TEXT_BYTES, Part, Raw, RawImage, Source, captions, read_file,
};
use crate::data::{Fault, FaultKind};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The images of a folder in the order of their paths.
#[derive(Clone, Debug)]
pub struct FolderSource {
    root: PathBuf,
    images: Arc<[PathBuf]>,
}

/// Whether the extension is one of an image.
fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    IMAGE_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
}

/// Paths of the images in a folder, at any depth, in order.
///
/// # Errors
/// A folder cannot be read.
pub fn images_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| Error::io(&folder, error))? {
            let entry = entry.map_err(|error| Error::io(&folder, error))?;
            // A link to a folder is not followed: it may lead in a circle.
            let kind = entry.file_type().map_err(|error| Error::io(entry.path(), error))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if is_image(&entry.path()) {
                images.push(entry.path());
            }
        }
    }
    images.sort();
    Ok(images)
}

impl FolderSource {
    /// Lists a folder.
    ///
    /// # Errors
    /// A folder cannot be read, or there is no image.
    pub fn open(root: &Path) -> Result<FolderSource> {
        let images = images_below(root)?;
        if images.is_empty() {
            let extensions = IMAGE_EXTENSIONS.join(", .");
            return Err(Error::invalid(format!("{}: no image (.{extensions})", root.display())));
        }
        Ok(FolderSource { root: root.to_path_buf(), images: images.into() })
    }
}

impl Source for FolderSource {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }
}

impl Part for FolderSource {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let path = &self.images[index];
        let key = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let text = read_file(&path.with_extension("txt"), MAX_TEXT_BYTES).map_err(|fault| match fault.kind {
            FaultKind::MissingFile => Fault::new(FaultKind::MissingCaption, &key, fault.detail),
            _ => fault,
        })?;
        let captions = captions(&key, text.split(|&byte| byte == b'\n'))?;
        let images = vec![RawImage::Encoded(read_file(path, MAX_IMAGE_BYTES)?)];
        Ok(Raw { key, images, captions, keywords: Vec::new(), labels: Labels::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_folder;

    #[test]
    fn images_at_any_depth_with_a_caption_a_line() {
        let folder = test_folder("folder");
        std::fs::create_dir(folder.join("deep")).unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(folder.join(name), content).unwrap();
        assert!(FolderSource::open(&folder).unwrap_err().to_string().contains("no image"));
        write("deep/b.JPG", b"jpg");
        write("deep/b.txt", b"one\n\n two \n");
        write("a.png", b"png");
        write("c.webp", b"webp");
        write("c.txt", b"caf\xe9");
        write("e.gif", b"gif");
        write("notes.md", b"not an image");
        let source = FolderSource::open(&folder).unwrap();
        assert_eq!(Part::len(&source), 4);
        assert_eq!(source.sample(0).unwrap_err().kind, FaultKind::MissingCaption);
        assert_eq!(source.sample(1).unwrap_err().kind, FaultKind::BadUtf8);
        assert_eq!(source.sample(3).unwrap_err().kind, FaultKind::MissingCaption);
        let raw = source.sample(2).unwrap();
        assert_eq!((raw.key.as_str(), raw.images), ("deep/b.JPG", vec![RawImage::Encoded(b"jpg".to_vec())]));
        assert_eq!(raw.captions, ["one", "two"]);
        assert!(FolderSource::open(&folder.join("none")).is_err());
    }
}
