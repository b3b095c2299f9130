// Drawing for the Live tab: boxes with labels that do not cover each other, ages, lists of words.
// Everything that comes from a model goes in as text, never as markup.

const FRESH = 1.0, OLD = 5.0;  // seconds between which boxes fade
const BOX_DEADLINE = 5.0, WORD_DEADLINE = 15.0;  // seconds after which an answer is not shown as current

function isCurrent(answer, state, now, deadline) {
  // Where nothing has moved since, the picture's own age counts.
  const still = state.still_since, held = still !== null && still !== undefined && answer.t >= still;
  return now - (held ? state.now : answer.t) <= deadline;
}

function boxesOf(state, now) {
  const found = [];
  for (const answer of state.answers) {
    const age = now - answer.t;
    if (answer.task !== "ground" || !isCurrent(answer, state, now, BOX_DEADLINE)) continue;
    // Who found a box, and whether it is a guess, is part of its label. A guess is grey; a score that nobody
    // measured says nothing.
    const labels = answer.labels || [];
    const colour = answer.guess ? "rgb(150 150 150)" : answer.colour;
    const score = answer.calibrated && !answer.guess ? (box) => box.score : () => null;
    const boxes = answer.unsure ? [] : answer.boxes;
    [...boxes, ...(answer.guesses || [])].forEach((box, number) =>
      found.push({ ...box, age, colour, score: score(box), text: labels[number] || answer.name }));
  }
  return found;
}

function drawBoxes(canvas, state, now, badge) {
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!state || !state.size[0]) return [];
  // The picture stands in the stage as object-fit: contain puts it.
  const scale = Math.min(width / state.size[0], height / state.size[1]);
  const left = (width - state.size[0] * scale) / 2, top = (height - state.size[1] * scale) / 2;
  pen.font = "600 13px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const boxes = boxesOf(state, now);
  // Labels leave the badge's corner free.
  const taken = [{ x: badge.offsetLeft, y: badge.offsetTop, w: badge.offsetWidth, h: badge.offsetHeight }];
  for (const box of boxes) {
    const x = left + box.x1 * scale, y = top + box.y1 * scale;
    const w = (box.x2 - box.x1) * scale, h = (box.y2 - box.y1) * scale;
    pen.globalAlpha = 1 - 0.7 * Math.min(Math.max((box.age - FRESH) / (OLD - FRESH), 0), 1);
    const guess = box.supported === false;
    pen.strokeStyle = guess ? "rgb(150 150 150)" : box.colour;
    pen.lineWidth = guess ? 1.5 : 2.5;
    pen.setLineDash(guess ? [6, 6] : []);
    pen.strokeRect(x, y, w, h);
    const label = placeLabel(x, y, h, pen.measureText(box.text).width + 10, 20, width, height, taken);
    if (!label) continue;
    pen.globalAlpha = Math.max(pen.globalAlpha, 0.8);  // words stay readable
    pen.fillStyle = guess ? "rgb(150 150 150)" : box.colour;
    pen.fillRect(label.x, label.y, label.w, label.h);
    pen.fillStyle = "#000";
    pen.fillText(box.text, label.x + 5, label.y + label.h / 2 + 1);
  }
  pen.globalAlpha = 1;
  pen.setLineDash([]);
  return boxes;
}

function placeLabel(x, y, h, w, height, width, bottom, taken) {
  const left = Math.min(Math.max(x, 0), Math.max(0, width - w));
  const rows = [y - height, y, y + h, y + h - height];
  for (let step = 1; step * height < bottom; step++) rows.push(y + step * height, y - step * height);
  for (const top of rows) {
    const place = { x: left, y: top, w, h: height };
    const inside = top >= 0 && top + height <= bottom;
    const free = taken.every((o) => place.x + w <= o.x || o.x + o.w <= place.x || top + height <= o.y || o.y + o.h <= top);
    if (inside && free) {
      taken.push(place);
      return place;
    }
  }
  return null;
}

function showBadge(badge, boxes) {
  const age = boxes.length ? Math.max(...boxes.map((box) => box.age)) : null;
  badge.hidden = age === null;
  if (age === null) return;
  badge.textContent = `boxes ${Math.max(0, age).toFixed(1)} s`;
  badge.dataset.age = age <= FRESH ? "fresh" : age <= (FRESH + OLD) / 2 ? "older" : "old";
}

function showWords(root, state, now) {
  for (const task of ["intent", "next"]) {
    const words = root.querySelector(`.ego-${task}`), old = root.querySelector(`.ego-${task}-old`);
    const answer = state && state.answers.find((one) => one.task === task);
    const age = answer ? now - answer.t : 0;
    const current = answer && isCurrent(answer, state, now, WORD_DEADLINE);
    const text = current ? answer.words : "–";
    if (words.textContent !== text) words.textContent = text;
    const seen = current && answer.window ? `, of ${(answer.window[1] - answer.window[0]).toFixed(1)} s seen` : "";
    const sure = current && answer.certainty ? `${answer.calibrated ? "right with" : "score"} ${answer.certainty}, ` : "";
    old.textContent = current ? `${sure}${age.toFixed(1)} s old${seen}` : "";
    old.title = current ? answer.reasoning : "";
  }
  const missing = root.querySelector(".ego-missing");
  const gone = state
    ? state.answers.filter((one) => one.task === "ground" && isCurrent(one, state, now, BOX_DEADLINE)) : [];
  const parts = gone.filter((one) => one.unsure || one.found !== "yes" || one.lost || one.status === "unparsed")
    .map((one) => `${one.name}: ${one.words}`);
  if (gone.some((one) => one.boxes.length && one.by === "model" && !one.calibrated && !one.guess)) parts.push("scores uncalibrated");
  missing.textContent = parts.join(" · ");
}

// What the model knows, as long as it says anything about other scenes.
function showKnows(root, state, knows) {
  const place = root.querySelector(".ego-knows"), guesses = state && state.answers.some((one) => one.guess);
  const text = guesses ? `Guesses: ${knows}` : "";
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

function listOf(list, entries) {
  // Rebuilt only when it differs, so that a reader's place and selection stay.
  const key = JSON.stringify(entries);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...entries.map(([head, text]) => {
    const item = document.createElement("li"), time = document.createElement("span");
    time.className = "ego-old";
    time.textContent = head;
    item.append(time, ` ${text}`);
    return item;
  }));
}

function showHistory(root, history) {
  const at = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  const told = history.filter((one) => one.task === "intent" || one.task === "next").reverse();
  listOf(root.querySelector(".ego-history"),
    told.map((one) => [`${at(one.t)}–${at(one.until)} ${one.task}`, one.text]));
  const replies = history.filter((one) => one.task === "ask" || one.task === "when").reverse().slice(0, 8);
  listOf(root.querySelector(".ego-replies"), replies.map((one) => [`${at(one.t)} ${one.phrase}`, one.text]));
}

function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
}

function showFigures(root, state, delays) {
  const figures = state.figures, rows = [];
  const add = (name, value) => rows.push([name, value]);
  const pair = (stage, digits, unit) => `${stage.p50.toFixed(digits)} / ${stage.p95.toFixed(digits)} ${unit}`;
  const share = (value) => (value === null || value === undefined ? "–" : `${Math.round(value * 100)}%`);
  if (delays.length) {
    add("camera to overlay, p50 / p95", `${percentile(delays, 0.5).toFixed(0)} / ${percentile(delays, 0.95).toFixed(0)} ms`);
  }
  if (figures.overlay_ms) add("of that in the server", pair(figures.overlay_ms, 0, "ms"));
  if (figures.behind_s >= 0.5) add("reading is behind by", `${figures.behind_s.toFixed(1)} s`);
  if (figures.age_s) add("age of answers, p50 / p95", pair(figures.age_s, 1, "s"));
  if (figures.source !== undefined) {
    add("pictures taken, shown", `${figures.source} / ${figures.shown} a second`);
    add("answers", `${figures.answers} a second`);
    add("pictures dropped, gaps", `${figures.dropped} / ${figures.gaps}`);
    if (figures.governor) add("governor", figures.governor);
    if (figures.warning) add("warning", figures.warning);
    add("requests waiting, visitors waiting", `${figures.waiting} / ${state.queue}`);
    add("prompt tokens reused", share(figures.reuse.prompt_tokens_reused));
    add("slices encoded of those used", share(figures.reuse.slices_encoded));
    add("memory of the server", figures.memory_mb === null ? "–" : `${Math.round(figures.memory_mb)} MB`);
  }
  const list = root.querySelector(".ego-figures");
  list.replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}
