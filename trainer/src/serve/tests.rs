//! The server over a real socket, and what it makes of uploads that are no pictures.

use super::*;
use crate::model_folder::test_model;
use crate::png_file;
use crate::test_support::{TestFolder, test_folder};
use std::io::Read;
use std::net::TcpStream;

/// A server with a small model and four pictures, one of them broken and one without a text, in a thread that ends with
/// the test.
fn server(name: &str) -> (TestFolder, SocketAddr) {
    let folder = test_folder(name);
    test_model(&folder.join("model"), 1);
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    for (file, colour) in [("red", [200, 10, 10]), ("blue", [10, 10, 200]), ("plain", [90; 3])] {
        std::fs::write(pictures.join(format!("{file}.png")), png(24, 16, colour)).unwrap();
    }
    std::fs::write(pictures.join("broken.png"), b"no picture").unwrap();
    std::fs::write(pictures.join("red.txt"), "a red cat\nthe red one").unwrap();
    std::fs::write(pictures.join("blue.txt"), "the blue dog runs").unwrap();
    let mut said = Vec::new();
    let images = pictures.display().to_string();
    let demo = Demo::open(&folder.join("model"), Some(&images), &mut |text| said.push(text.to_owned())).unwrap();
    assert_eq!(said, [format!("3 pictures and 3 texts of {images} are indexed, 1 passed over")]);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            serve(listener, demo).await.unwrap();
        });
    });
    (folder, receiver.recv().unwrap())
}

fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    png_file::encode_rgb(width, height, &colour.repeat((width * height) as usize)).unwrap()
}

/// Status, headers and body of the answer to one request.
fn request(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    // A server that refuses what is announced need not read it.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn post(address: SocketAddr, path: &str, body: &[u8]) -> (u16, serde_json::Value) {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}", body.len());
    let (status, _, body) = request(address, &head, body);
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status} {body}")))
}

#[test]
fn a_picture_is_captioned_labelled_and_compared() {
    let (_folder, address) = server("serve-answers");
    let (status, head, page) = request(address, &format!("GET / HTTP/1.1\r\nHost: {address}"), &[]);
    assert_eq!(status, 200);
    assert!(head.contains("content-security-policy: default-src 'self'") && page.contains("page.js"), "{head}");
    // Nothing on the page comes from elsewhere.
    for part in [include_str!("page/page.html"), include_str!("page/page.css"), include_str!("page/page.js")] {
        assert!(!part.contains("http:") && !part.contains("https:") && !part.contains("//cdn"));
    }
    let red = png(20, 20, [200, 10, 10]);
    let (status, captions) = post(address, "/captions", &red);
    assert_eq!(status, 200, "{captions}");
    let scores: Vec<f64> =
        captions.as_array().unwrap().iter().map(|found| found["log_probability"].as_f64().unwrap()).collect();
    assert!(scores.len() > 1 && scores.iter().all(|&score| score < 0.0), "{captions}");

    let (status, labels) =
        post(address, "/labels", &[b"a red cat\nthe blue dog\n one bird \n\n".as_slice(), &red].concat());
    assert_eq!(status, 200, "{labels}");
    let labels = labels.as_array().unwrap();
    let probabilities: Vec<f64> = labels.iter().map(|label| label["probability"].as_f64().unwrap()).collect();
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9 && probabilities.is_sorted_by(|a, b| a >= b));
    assert!(labels.iter().any(|label| label["label"] == "one bird"));

    let (status, nearest) = post(address, "/nearest", &png(24, 16, [200, 10, 10]));
    assert_eq!(status, 200, "{nearest}");
    assert_eq!((nearest["pictures"].as_array().unwrap().len(), nearest["texts"].as_array().unwrap().len()), (3, 3));
    // The picture itself.
    let first = &nearest["pictures"][0];
    assert_eq!(first["text"], "a red cat");
    assert!((first["similarity"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    assert!(first["picture"].as_str().unwrap().starts_with("data:image/png;base64,"));

    let (status, attention) = post(address, "/attention", &red);
    assert_eq!((status, &attention["side"]), (200, &serde_json::json!(2)), "{attention}");
    let about = request(address, &format!("GET /model HTTP/1.1\r\nHost: {address}"), &[]).2;
    assert!(about.contains("\"indexed\":3"), "{about}");
}

#[test]
fn bad_uploads_get_a_message_and_the_server_goes_on() {
    let (_folder, address) = server("serve-refusals");
    let picture = png(8, 8, [1, 2, 3]);
    let bomb = png(12_000, 9_000, [0; 3]);
    for (path, body, status, text) in [
        ("/captions", b"no picture".as_slice(), 422, "no PNG"),
        ("/captions", b"", 422, "no PNG"),
        ("/attention", &picture[..picture.len() / 2], 422, ""),
        ("/nearest", &bomb, 422, "pixels"),
        ("/labels", &picture, 422, "1 to 1000 labels are wanted, got 0"),
        ("/labels", b"\xff\n\nx", 422, "not UTF-8"),
        ("/labels", &[b"cat\n".as_slice(), &[b'a'; 1025], b"\n\n"].concat(), 422, "label 2 has 1025 bytes, 1024"),
    ] {
        let (found, answer) = post(address, path, body);
        assert!(found == status && answer["error"].as_str().unwrap().contains(text), "{path}: {found} {answer}");
    }
    // Too large: by what is announced, and by what comes.
    let head = format!("POST /captions HTTP/1.1\r\nHost: {address}\r\nContent-Length: 999999999999");
    let (status, _, body) = request(address, &head, &[]);
    assert!(status == 413 && body.contains("larger than 32 MiB"), "{status} {body}");
    let head = format!("POST /captions HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked");
    let part = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![0; 1 << 20], b"\r\n".to_vec()].concat();
    let (status, _, body) = request(address, &head, &part.repeat(34));
    assert!(status == 413 && body.contains("larger than 32 MiB"), "{status} {body}");
    // A name that is not this machine's, as a page elsewhere would use.
    let (status, _, body) = request(address, "GET /model HTTP/1.1\r\nHost: example.org", &[]);
    assert!(status == 403 && body.contains("'example.org' is not this machine"), "{status} {body}");
    for host in ["localhost:1", "[::1]:80", "127.0.0.1"] {
        assert_eq!(request(address, &format!("GET /model HTTP/1.1\r\nHost: {host}"), &[]).0, 200, "{host}");
    }
    // An upload that breaks off.
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "POST /captions HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000\r\n\r\nhalf").unwrap();
    drop(stream);
    assert_eq!(post(address, "/captions", &picture).0, 200);
}

#[test]
fn what_cannot_be_served_is_said_before() {
    let folder = test_folder("serve-nothing");
    test_model(&folder.join("model"), 1);
    std::fs::create_dir_all(folder.join("empty")).unwrap();
    let images = folder.join("empty").display().to_string();
    let error = Demo::open(&folder.join("model"), Some(&images), &mut |_| {}).unwrap_err().to_string();
    assert!(error.ends_with("not one picture that can be read"), "{error}");
    let mut demo = Demo::open(&folder.join("model"), None, &mut |_| {}).unwrap();
    let error = demo.nearest(&png(8, 8, [0; 3])).unwrap_err().to_string();
    assert!(error.contains("--images"), "{error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = listen(taken.local_addr().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("--port"), "{error}");
    });
}

#[test]
fn a_place_is_taken_until_the_picture_is_answered() {
    let folder = test_folder("serve-places");
    test_model(&folder, 1);
    let shared = Shared::new(Demo::open(&folder, None, &mut |_| {}).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let busy = shared.demo.lock().unwrap();
    runtime.block_on(async {
        // The one who asked goes away while another is answered.
        let request = Request::new(axum::body::Body::from(png(8, 8, [1, 2, 3])));
        let asked = upload(shared.clone(), request, Demo::captions);
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
        assert_eq!(shared.waiting.available_permits(), MOST_WAITING - 1);
        assert_eq!(about(State(shared.clone())).await.status(), StatusCode::OK);
        drop(busy);
        let free = shared.waiting.acquire_many(MOST_WAITING as u32);
        assert!(tokio::time::timeout(PATIENCE, free).await.is_ok());
    });
}
