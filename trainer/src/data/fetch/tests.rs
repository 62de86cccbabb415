//! Sets fetched through tools that the tests make: shell scripts on a path of their own.

use super::*;
use crate::base64::base64;
use crate::data::shard_writer::hexadecimal;
use crate::data::source::tar_of as tar;
use crate::test_folder;
use crate::test_support::TestFolder;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha512};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// A folder with tools in `bin`, which note their calls in `calls`, and a place for what they fetch.
struct Machine(TestFolder);

impl Machine {
    fn new(name: &str) -> Machine {
        let machine = Machine(test_folder(name));
        fs::create_dir(machine.0.join("bin")).unwrap();
        fs::write(machine.0.join("calls"), "").unwrap();
        machine
    }

    /// A tool; `$here` is the folder of the test.
    fn tool(&self, name: &str, script: &str) {
        let (path, here) = (self.0.join("bin").join(name), self.0.display());
        let script = format!("#!/bin/sh\nhere='{here}'\necho \"{name} $*\" >> \"$here/calls\"\n{script}\n");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Debian's tools, for a package that is a plain tar file; its checksum is that of `promised`.
    fn debian(&self, package: &[u8], promised: &[u8]) {
        fs::write(self.0.join("package"), package).unwrap();
        let show = format!("Package: p\nVersion: 1:2.0-1\nSHA256: {}\n", hexadecimal(&Sha256::digest(promised)));
        fs::write(self.0.join("show"), show).unwrap();
        self.tool("apt-cache", "/bin/cat \"$here/show\"");
        self.tool("apt-get", "/bin/cp \"$here/package\" ./p.deb");
        self.tool("dpkg-deb", "/bin/cat \"$2\"");
    }

    fn tools(&self) -> Tools {
        Tools::on_path(self.0.join("bin"))
    }

    fn out(&self) -> std::path::PathBuf {
        self.0.join("out")
    }

    fn fetch(&self, set: Set) -> Result<Index> {
        fetch(set, &self.out(), &self.tools())
    }

    fn refused(&self, set: Set) -> String {
        self.fetch(set).unwrap_err().to_string()
    }

    /// The tools that were called since the last time, with the first of their arguments.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap();
        fs::write(self.0.join("calls"), "").unwrap();
        calls.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    /// The samples of a split.
    fn samples(&self, split: &str) -> Vec<crate::data::Raw> {
        let pattern = self.out().join(format!("{split}-00000.tar")).display().to_string();
        let part = crate::data::open(&pattern, &crate::config::Data::default()).unwrap().part(0).unwrap();
        (0..part.len()).map(|index| part.sample(index).unwrap()).collect()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A package like Debian's, with one training and two test pictures of 2 x 2 pixels.
fn fashion_package() -> Vec<u8> {
    let images = |count: u8| {
        gzip(&[&[0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2][..], &vec![9; usize::from(count) * 4]].concat())
    };
    let labels = |labels: &[u8]| gzip(&[&[0, 0, 8, 1, 0, 0, 0, labels.len() as u8][..], labels].concat());
    let folder = "./usr/share/datasets/fashion-mnist";
    tar(&[
        (&format!("{folder}/train-images-idx3-ubyte.gz"), &images(1)),
        (&format!("{folder}/train-labels-idx1-ubyte.gz"), &labels(&[9])),
        (&format!("{folder}/t10k-images-idx3-ubyte.gz"), &images(2)),
        (&format!("{folder}/t10k-labels-idx1-ubyte.gz"), &labels(&[0, 8])),
        ("./usr/share/doc/README", b"not of the set"),
    ])
}

#[test]
fn a_set_is_fetched_once() {
    let machine = Machine::new("fetch-once");
    let package = fashion_package();
    machine.debian(&package, &package);
    let index = machine.fetch(Set::FashionMnist).unwrap();
    assert_eq!((index.splits["train"].samples, index.splits["test"].samples), (1, 2));
    assert_eq!((index.origins[0].version.as_str(), index.licence.as_str()), ("1:2.0-1", "MIT"));
    let captions: Vec<String> = machine.samples("test").into_iter().map(|raw| raw.captions.concat()).collect();
    assert_eq!(captions, ["t-shirt", "bag"]);
    assert_eq!(machine.samples("train")[0].captions, ["ankle boot"]);
    assert_eq!(machine.calls(), ["apt-cache show", "apt-get download", "dpkg-deb --fsys-tarfile"]);

    assert_eq!(machine.fetch(Set::FashionMnist).unwrap(), index);
    assert!(machine.calls().is_empty(), "nothing is asked for again");
    // Shards that are lost are made again from the package that was kept.
    fs::remove_file(machine.out().join("index.json")).unwrap();
    assert_eq!(machine.fetch(Set::FashionMnist).unwrap(), index);
    assert_eq!(machine.calls(), ["dpkg-deb --fsys-tarfile"]);
    // A package that was damaged since is fetched again.
    fs::write(machine.out().join("packages/p.deb"), "damaged").unwrap();
    assert_eq!(machine.fetch(Set::FashionMnist).unwrap(), index);
    assert_eq!(machine.calls()[..2], ["apt-cache show", "apt-get download"]);
}

#[test]
fn a_download_that_is_not_whole_is_refused_and_the_next_run_goes_on() {
    let machine = Machine::new("fetch-broken");
    let package = fashion_package();
    for wrong in [&package[..package.len() / 2], &[&package[..], b"more"].concat()] {
        machine.debian(wrong, &package);
        let error = machine.refused(Set::FashionMnist);
        let (found, promised) = (hexadecimal(&Sha256::digest(wrong)), hexadecimal(&Sha256::digest(&package)));
        for part in [&format!("the {} bytes", wrong.len()), &found, &promised, "run the command again"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!machine.out().join("packages/p.deb").exists() && !machine.out().join("index.json").exists());
    }
    machine.debian(&package, &package);
    machine.tool("apt-get", "echo 'E: Could not connect' >&2; exit 100");
    let error = machine.refused(Set::FashionMnist);
    assert!(error.contains("apt-get download --quiet dataset-fashion-mnist=1:2.0-1 failed"), "{error}");
    assert!(error.contains("E: Could not connect"), "{error}");
    // As a program that was killed leaves it.
    fs::create_dir_all(machine.out().join("packages/download.part")).unwrap();
    fs::write(machine.out().join("packages/download.part/half.deb"), "half").unwrap();
    machine.debian(&package, &package);
    machine.fetch(Set::FashionMnist).unwrap();
    assert!(!machine.out().join("packages/download.part").exists());
}

#[test]
fn a_set_of_two_packages_goes_on_with_the_second() {
    let machine = Machine::new("fetch-two");
    let picture = crate::png_file::encode_rgb(2, 1, &[255, 0, 0, 0, 0, 255]).unwrap();
    let metadata = b"<svg><metadata><cc:Work><dc:title>A red thing</dc:title></cc:Work></metadata></svg>";
    let series = b"<svg><metadata><cc:Work><dc:title>A long series</dc:title></cc:Work></metadata></svg>";
    // One more than may share a title.
    let names: Vec<[String; 2]> = (0..9)
        .map(|number| ["png", "svg"].map(|kind| format!("./usr/share/openclipart/{kind}/s/{number}.{kind}")))
        .collect();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("./usr/share/openclipart/png/a/b.c.png", &picture),
        ("./usr/share/openclipart/png/a/damaged.png", &picture[..20]),
        ("./usr/share/openclipart/png/a/untold.png", &picture),
        ("./usr/share/openclipart/svg/a/b.c.svg", metadata),
        ("./usr/share/openclipart/svg/a/damaged.svg", metadata),
    ];
    files.extend(names.iter().flat_map(|[png, svg]| [(png.as_str(), &picture[..]), (svg.as_str(), &series[..])]));
    // Both packages are the same file; the second download fails once.
    let package = tar(&files);
    machine.debian(&package, &package);
    machine.tool("apt-get", "case $3 in openclipart-png*) /bin/cp \"$here/package\" ./png.deb;; *) exit 1;; esac");
    assert!(machine.refused(Set::Openclipart).contains("openclipart-svg"));
    machine.calls();
    machine.debian(&package, &package);
    let index = machine.fetch(Set::Openclipart).unwrap();
    assert_eq!(machine.calls().iter().filter(|call| call.starts_with("apt-get")).count(), 1);
    let (split, samples) = index.splits.iter().next().unwrap();
    assert_eq!(samples.samples, 1);
    let samples = machine.samples(split);
    assert_eq!(samples[0].captions, ["A red thing"]);
    assert!(samples[0].key.ends_with(": a/b_c"), "{}", samples[0].key);
}

#[test]
fn missing_tools_and_packages_are_named_with_the_fix() {
    let machine = Machine::new("fetch-missing");
    let error = machine.refused(Set::FashionMnist);
    assert!(error.starts_with("apt-cache is not on PATH: this set comes as a Debian package"), "{error}");
    let package = fashion_package();
    machine.debian(&package, &package);
    machine.tool("apt-cache", "echo 'E: No packages found' >&2; exit 100");
    let error = machine.refused(Set::FashionMnist);
    assert!(error.contains("E: No packages found") && error.contains("apt-get update"), "{error}");
    let npm = |machine: &Machine| Package::get(Registry::Npm, "@a/b", &machine.out(), &machine.tools());
    let error = npm(&machine).unwrap_err().to_string();
    assert!(error.starts_with("npm is not on PATH: install Node.js"), "{error}");
    // Not the package that it should be.
    let other = tar(&[("./usr/share/doc/README", b"other")]);
    machine.debian(&other, &other);
    assert!(machine.refused(Set::FashionMnist).contains("it has no file train-images-idx3-ubyte.gz"));
}

#[test]
fn npm_packages_are_verified_by_sha512_and_read_without_unpacking() {
    let machine = Machine::new("fetch-npm");
    let package = gzip(&tar(&[("package/a.json", b"{}"), ("package/b.bin", b"no")]));
    fs::write(machine.0.join("package"), &package).unwrap();
    let view = |checksum: &str| {
        let view = format!(r#"{{"version": "1.2.3", "license": "MIT", "dist.integrity": "sha1-AAAA {checksum}"}}"#);
        fs::write(machine.0.join("view"), view).unwrap();
    };
    let pack = "[ $4 = @a/b@1.2.3 ] && /bin/cp \"$here/package\" a-b-1.2.3.tgz";
    machine.tool("npm", &format!("case $1 in view) /bin/cat \"$here/view\";; pack) {pack};; esac"));
    let get = || Package::get(Registry::Npm, "@a/b", &machine.out(), &machine.tools());
    view("sha512-wrong");
    assert!(get().unwrap_err().to_string().contains("the registry says sha512-wrong"));
    view("");
    assert!(get().unwrap_err().to_string().contains("npm view @a/b: it does not tell a sha512 checksum"));
    let checksum = format!("sha512-{}", base64(&Sha512::digest(&package)));
    view(&checksum);
    let got = get().unwrap();
    assert_eq!((got.licence.as_str(), &got.origin.checksum), ("MIT", &checksum));
    assert_eq!(got.path, machine.out().join("packages/a-b-1.2.3.tgz"));
    let mut seen = Vec::new();
    let each = |name: &str, content: Vec<u8>| {
        seen.push((name.to_owned(), content));
        Ok(())
    };
    archive::for_each_file(&got, &machine.tools(), |name| name.ends_with(".json"), each).unwrap();
    assert_eq!(seen, [("package/a.json".to_owned(), b"{}".to_vec())]);
    // Damaged after it was verified.
    fs::write(&got.path, &package[..package.len() - 30]).unwrap();
    assert!(archive::for_each_file(&got, &machine.tools(), |_| true, |_, _| Ok(())).is_err());
}

#[test]
fn stamps_have_a_sentence_and_its_translations() {
    let machine = Machine::new("fetch-stamps");
    let picture = crate::png_file::encode_rgb(1, 1, &[1, 2, 3]).unwrap();
    let folder = "./usr/share/tuxpaint/stamps/animals";
    let package = tar(&[
        (&format!("{folder}/frog.png"), &picture),
        (&format!("{folder}/frog.txt"), b"A frog.\nde.utf8=Ein Frosch.\nfr.utf8=\n"),
        (&format!("{folder}/frog_mirror.png"), &picture),
        (&format!("{folder}/toad.txt"), b"A toad.\n"),
    ]);
    machine.debian(&package, &package);
    assert_eq!(machine.fetch(Set::Tuxstamps).unwrap().splits["all"].samples, 1);
    let samples = machine.samples("all");
    assert_eq!(samples[0].captions, ["A frog."]);
    let shard = fs::read(machine.out().join("all-00000.tar")).unwrap();
    let json = br#"{"caption":"A frog.","translations":{"de":"Ein Frosch."}}"#;
    assert!(shard.windows(json.len()).any(|window| window == json));
}

#[test]
fn keys_lead_nowhere() {
    assert_eq!(key("../../etc/a.b c"), "__/__/etc/a_b_c");
    assert_eq!(key("/a/é"), "a/_");
}
