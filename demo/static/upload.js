// Sends the chosen clip as it is, tells how far it is, and hands its token to the server's function.
const base = new URL("clip/upload", document.baseURI);
const part = (name) => element.querySelector(`.ego-${name}`);
let sending = null;

function tell(text) {
  part("drop-text").textContent = text;
}

function send(file) {
  if (sending) sending.abort();
  const request = sending = new XMLHttpRequest();
  const bar = part("progress");
  bar.hidden = false;
  bar.value = 0;
  tell(`Sending ${file.name} …`);
  request.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) bar.value = event.loaded / event.total;
  });
  request.addEventListener("loadend", () => {
    if (request !== sending) return;
    sending = null;
    bar.hidden = true;
    let told = {};
    try {
      told = JSON.parse(request.responseText);
    } catch {
      // Nothing, or not ours: told below.
    }
    if (!told.upload) {
      tell(told.error || "The upload broke off. Is the server still running? Try again.");
      return;
    }
    tell(`${file.name} was sent. Drop another, or press to choose one.`);
    props.value = told.upload;
    trigger("upload");
  });
  base.searchParams.set("name", file.name);
  request.open("POST", base);
  request.send(file);
}

element.addEventListener("change", (event) => {
  const [file] = event.target.files || [];
  if (file) send(file);
  event.target.value = "";
});
for (const kind of ["dragover", "drop"]) {
  element.addEventListener(kind, (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer?.files || [];
    if (kind === "drop" && file) send(file);
  });
}
