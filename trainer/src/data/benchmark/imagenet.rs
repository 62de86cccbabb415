//! ImageNet as it is laid out on disk, and what follows it (-A, -R, V2, -Sketch, ObjectNet): a folder for each class.

use super::read_classes;
use crate::data::source::{MAX_IMAGE_BYTES, images_below, read_file};
use crate::data::{Class, Fault, Labels, Part, Raw, RawImage, Source};
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The images of class folders, in the order of their paths. The caption of an image is the name of its class.
#[derive(Clone, Debug)]
pub struct ImageNetSource {
    root: PathBuf,
    classes: Arc<[Class]>,
    /// Each with its index into `classes`.
    images: Arc<[(PathBuf, usize)]>,
}

impl ImageNetSource {
    /// Lists the folders in `root`. Their labels are found in the file `classes`; without one (an empty path) a folder's name
    /// is its class's too.
    ///
    /// # Errors
    /// A folder or the file cannot be read, there is no image, or a folder with images is not in the file.
    pub fn open(root: &Path, classes: &Path) -> Result<ImageNetSource> {
        let listed = if classes.as_os_str().is_empty() { None } else { Some(read_classes(classes)?) };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(root).map_err(|error| Error::io(root, error))? {
            let path = entry.map_err(|error| Error::io(root, error))?.path();
            // Of the folders of classes, links are followed: subsets are made of them.
            folders.extend(Some(path).filter(|path| path.is_dir()));
        }
        folders.sort();
        let label =
            |folder: &Path| folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let classes = listed.clone().unwrap_or_else(|| {
            let class = |folder: &PathBuf| Class { label: label(folder), name: label(folder) };
            folders.iter().map(class).collect()
        });
        let places: HashMap<&str, usize> =
            classes.iter().enumerate().map(|(place, class)| (class.label.as_str(), place)).collect();
        let mut images = Vec::new();
        for folder in &folders {
            let found = images_below(folder)?;
            match places.get(label(folder).as_str()) {
                Some(&place) => images.extend(found.into_iter().map(|path| (path, place))),
                None if found.is_empty() => {}
                None => {
                    let label = label(folder);
                    return Err(Error::invalid(format!(
                        "{}: the list of classes has no label '{label}', of which there is a folder",
                        root.display()
                    )));
                }
            }
        }
        if images.is_empty() {
            return Err(Error::invalid(format!("{}: no folders with images, one for each class", root.display())));
        }
        Ok(ImageNetSource { root: root.to_path_buf(), classes: classes.into(), images: images.into() })
    }
}

impl Source for ImageNetSource {
    fn name(&self) -> String {
        format!("imagenet:{}", self.root.display())
    }

    fn parts(&self) -> usize {
        1
    }

    fn part(&self, _: usize) -> std::result::Result<Arc<dyn Part>, Fault> {
        Ok(Arc::new(self.clone()))
    }

    fn classes(&self) -> Option<Vec<Class>> {
        Some(self.classes.to_vec())
    }
}

impl Part for ImageNetSource {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn sample(&self, index: usize) -> std::result::Result<Raw, Fault> {
        let (path, class) = &self.images[index];
        let Class { label, name } = &self.classes[*class];
        let key = path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let images = vec![RawImage::Encoded(read_file(path, MAX_IMAGE_BYTES)?)];
        let labels = Labels { class: Some(label.clone()), ..Labels::default() };
        Ok(Raw { key, images, captions: vec![name.clone()], keywords: Vec::new(), labels })
    }
}
