// The Live tab. Pictures go out one at a time, always the newest, each with the time of its capture; the
// answer to each is what is known about it. Boxes are drawn over the local video, which waits for nobody.

const root = element.querySelector(".ego");
const part = (name) => root.querySelector(`.ego-${name}`);
const video = part("video"), stage = part("stage"), overlay = part("boxes"), picture = part("picture");
const base = new URL("live/", document.baseURI).href;
const MOST_A_SECOND = 15;  // pictures posted; more gains nothing and costs the phone's battery

let visit = null;      // the word of this visit
let about = null;      // what the server said about it
let state = null;      // the newest moment, and when it began by our clock
let run = 0;           // number of the current start: what an older one still awaits is ignored
let stream = null, paused = false, posting = false, lastPost = 0;
let delays = [];       // milliseconds from the capture of a picture to its boxes on the screen
let undrawn = null;    // capture time of the newest moment until it is drawn

const clock = () => performance.now() / 1000;

function phase(name, message = "", button = "") {
  root.dataset.phase = name;
  part("message").textContent = message;
  part("start").textContent = button;
  part("start").hidden = !button;
  part("cover").hidden = name === "live" || name === "paused";
  part("pause").disabled = part("stop").disabled = name !== "live" && name !== "paused";
  part("pause").textContent = name === "paused" ? "Go on" : "Pause";
}

// The stage takes the shape of the picture, as far as there is room.
function shape(width, height) {
  stage.style.aspectRatio = `${width} / ${height}`;
}

function note(text) {
  part("note").textContent = text;
}

async function call(path, body) {
  let reply;
  try {
    reply = await fetch(base + path, { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body) });
  } catch {
    throw { message: "The server does not answer. Is it still running? Trying again.", again: true };
  }
  const told = await reply.json().catch(() => ({ error: `The server answers ${reply.status}.` }));
  if (!reply.ok) throw { message: told.error || `The server answers ${reply.status}.`, gone: told.gone, again: told.full };
  return told;
}

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function settings() {
  const box = (name) => root.querySelector(`.ego-settings [name=${name}]`);
  const tasks = ["intent", "next", "ground"].filter((name) => box(name).checked);
  const phrases = box("phrases").value.split(",").map((words) => words.trim()).filter(Boolean);
  return { tasks, phrases, think: box("think").checked };
}

// What goes wrong with cameras, and what to do about it.
function cameraTrouble(error) {
  if (!window.isSecureContext) {
    return `Browsers give a camera only to pages that come over HTTPS or from this very machine, and this page ` +
      `came from ${location.origin}. Start the server with: egolive demo --host 0.0.0.0 --auth FILE, open ` +
      `https://${location.host}, and accept the certificate once.`;
  }
  if (!navigator.mediaDevices) return "This browser has no camera access. Try a current Firefox, Chrome or Safari.";
  switch (error && error.name) {
    case "NotAllowedError":
      return "The browser was told not to give the camera to this page. Allow it by the sign left of the address, then start again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera was found. Plug one in, then start again.";
    case "NotReadableError":
    case "AbortError":
      return "The camera is there but gives no picture. Another program may be using it: close that, then start again.";
    default:
      return `The camera cannot be opened (${error && error.message}). Start again.`;
  }
}

async function openCamera(device) {
  if (!window.isSecureContext || !navigator.mediaDevices) throw new Error();
  const wish = device ? { deviceId: { exact: device } } : { facingMode: { ideal: "environment" } };
  const size = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  stream = await navigator.mediaDevices.getUserMedia({ video: { ...wish, ...size }, audio: false });
  video.srcObject = stream;
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (root.dataset.phase === "live" || root.dataset.phase === "paused") {
      stop();
      phase("idle", "The camera is gone. Plug it in, then start again.", "Start again");
    }
  });
  await video.play();
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  const used = stream.getVideoTracks()[0].getSettings().deviceId;
  part("cameras").hidden = cameras.length < 2;
  part("camera").replaceChildren(...cameras.map((one, number) =>
    new Option(one.label || `Camera ${number + 1}`, one.deviceId, false, one.deviceId === used)));
}

async function enter(mine) {
  // Waits for room where the server is full, longer each time: others may wait too.
  let pause = 2;
  while (mine === run) {
    try {
      const told = await call("open", settings());
      if (mine !== run) {
        if (!told.watched) navigator.sendBeacon(`${base}${told.visit}/close`);
        return false;
      }
      about = told;
      visit = told.visit;
      part("engine").textContent = told.engine;
      note("");
      return true;
    } catch (trouble) {
      if (!trouble.again) throw trouble;
      note(trouble.message);
      await wait(pause * (0.8 + 0.4 * Math.random()));
      pause = Math.min(15, 1.5 * pause);
    }
  }
  return false;
}

async function start(device) {
  stop();
  const mine = ++run;
  phase("starting", "Starting …");
  try {
    if (root.dataset.watched !== "yes") {
      try {
        await openCamera(device);
      } catch (error) {
        if (mine === run) phase("idle", cameraTrouble(error), "Start again");
        return;
      }
    }
    if (!(await enter(mine))) return;
  } catch (trouble) {
    if (mine === run) halt(trouble.message);
    return;
  }
  paused = false;
  delays = [];
  phase("live");
  if (about.watched) watch(mine);
  else nextFrame(mine);
}

function stop() {
  run += 1;
  if (visit && about && !about.watched) navigator.sendBeacon(`${base}${visit}/close`);
  if (stream) stream.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  visit = stream = state = null;
  posting = false;
  note("");
}

function halt(message) {
  stop();
  phase("idle", message, "Start again");
}

// Each frame of the camera comes by here; one is posted whenever the one before has been answered.
function nextFrame(mine) {
  if (mine !== run) return;
  if (video.requestVideoFrameCallback) {
    video.requestVideoFrameCallback((now, about) => {
      offer(mine, (about.captureTime || about.presentationTime || now) / 1000);
      nextFrame(mine);
    });
  } else {
    requestAnimationFrame((now) => {
      offer(mine, now / 1000);
      nextFrame(mine);
    });
  }
}

function offer(mine, captured) {
  const now = clock();
  if (mine !== run || posting || paused || !visit || now - lastPost < 1 / MOST_A_SECOND || !video.videoWidth) return;
  posting = true;
  lastPost = now;
  shape(video.videoWidth, video.videoHeight);
  const scale = Math.min(1, about.longest / Math.max(video.videoWidth, video.videoHeight));
  picture.width = Math.round(video.videoWidth * scale);
  picture.height = Math.round(video.videoHeight * scale);
  picture.getContext("2d").drawImage(video, 0, 0, picture.width, picture.height);
  picture.toBlob((jpeg) => post(mine, jpeg, captured), "image/jpeg", 0.8);
}

async function post(mine, jpeg, captured) {
  try {
    take(mine, await call(`${visit}/picture?time=${captured.toFixed(6)}`, jpeg));
  } catch (trouble) {
    if (mine !== run) return;
    await mend(mine, trouble);
  }
  if (mine === run) posting = false;
}

async function mend(mine, trouble) {
  if (trouble.gone) {
    // Nothing was posted for a while, or the server was started anew: begin again by ourselves.
    try {
      await enter(mine);
    } catch (other) {
      if (mine === run) halt(other.message);
    }
    return;
  }
  note(trouble.message);
  await wait(1);
}

function take(mine, told) {
  if (mine !== run) return;
  if (told.over) {
    if (told.error) halt(told.error);
    else mend(mine, { gone: true });
    return;
  }
  note("");
  const zero = told.origin === null ? clock() - told.now : told.origin;
  if (state && told.index === state.index && told.origin === state.origin) return;
  state = root.moment = { ...told, zero };
  undrawn = told.index < 0 ? null : zero + told.t;
  root.dataset.index = told.index;
  showHistory(root, state.history);
}

// A camera of the server: pictures come with what is known about them.
async function watch(mine) {
  let after = -1;
  picture.hidden = false;
  while (mine === run) {
    try {
      if (paused) {
        await wait(0.2);
        continue;
      }
      const reply = await fetch(`${base}${visit}/view?after=${after}`);
      if (!reply.ok) throw { gone: reply.status === 404, message: `The server answers ${reply.status}.` };
      const data = await reply.arrayBuffer();
      const length = new DataView(data).getUint32(0);
      const told = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      const jpeg = new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" });
      if (told.over) {
        take(mine, told);
        after = -1;
        continue;
      }
      if (told.index === after || !jpeg.size) continue;
      const image = await createImageBitmap(jpeg);
      if (mine !== run) return;
      shape(image.width, image.height);
      picture.width = image.width;
      picture.height = image.height;
      picture.getContext("2d").drawImage(image, 0, 0);
      after = told.index;
      take(mine, told);
    } catch (trouble) {
      if (mine !== run) return;
      await mend(mine, trouble.gone === undefined
        ? { message: "The server does not answer. Is it still running? Trying again." } : trouble);
    }
  }
}

let figuresAt = 0;
function draw() {
  if (!root.isConnected) return stop();
  const live = root.dataset.phase === "live";
  const now = state ? clock() - state.zero : 0;
  const boxes = drawBoxes(overlay, live ? state : null, now, part("badge"));
  showBadge(part("badge"), boxes);
  showWords(root, live ? state : null, now);
  showKnows(root, live ? state : null, about?.knows || "");
  if (undrawn !== null && !about?.watched) {
    delays.push(1000 * (clock() - undrawn));
    if (delays.length > 600) delays.shift();
  }
  undrawn = null;
  if (state && clock() - figuresAt > 1) {
    figuresAt = clock();
    showFigures(root, state, about.watched ? [] : delays);
  }
  requestAnimationFrame(draw);
}

function pause() {
  paused = !paused;
  if (paused) video.pause();
  else video.play();
  phase(paused ? "paused" : "live");
  note(paused ? "Paused: nothing is sent. What comes after counts as a new stretch." : "");
}

part("start").addEventListener("click", () => start());
part("stop").addEventListener("click", () => { stop(); begin(); });
part("pause").addEventListener("click", pause);
part("camera").addEventListener("change", (event) => start(event.target.value));
part("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = root.querySelector("#ego-question"), text = field.value.trim();
  if (!visit) return note("Start the camera first: the question is about what it sees.");
  if (!text) return note("The question is empty; write what you want to know.");
  try {
    await call(`${visit}/ask`, { text, task: part("kind").value });
    field.value = "";
    note(`Asked: ${text}`);
  } catch (trouble) {
    note(trouble.message);
  }
});
part("settings").addEventListener("change", async () => {
  if (!visit) return;
  try {
    await call(`${visit}/settings`, settings());
    note("");
  } catch (trouble) {
    note(trouble.message);
  }
});
document.addEventListener("keydown", (event) => {
  const busy = event.target.closest("input, textarea, select, button, summary, [contenteditable]");
  if (busy || event.ctrlKey || event.metaKey || event.altKey || !stage.offsetParent) return;
  if (event.key === " " && !part("pause").disabled) {
    event.preventDefault();
    pause();
  } else if (event.key === "/") {
    event.preventDefault();
    root.querySelector("#ego-question").focus();
  }
});
window.addEventListener("pagehide", () => stop());

function begin() {
  const watched = root.dataset.watched === "yes";
  phase("idle", watched ? "" : "Nothing is recorded. Pictures go to this server, are answered and forgotten.",
    watched ? "Watch the server's camera" : "Start the camera");
}

// For whoever looks at the page from outside: p50 and p95 from camera to overlay, milliseconds.
root.delays = () => [percentile(delays, 0.5), percentile(delays, 0.95)];

begin();
requestAnimationFrame(draw);
