// The timeline: pressing a span goes to its time in the video, a line tells where the video is.
const shown = () => document.querySelector("#clip-result video");

element.addEventListener("click", (event) => {
  const span = event.target.closest("[data-start]"), video = shown();
  if (!span || !video) return;
  video.currentTime = Number(span.dataset.start);
  video.scrollIntoView({ block: "nearest" });
});

function follow() {
  if (!element.isConnected) return;
  const video = shown(), strip = element.querySelector(".ego-timeline");
  if (video && strip) {
    const share = Math.min(1, video.currentTime / Number(strip.dataset.seconds));
    strip.style.setProperty("--at", `${(100 * share).toFixed(2)}%`);
  }
  requestAnimationFrame(follow);
}
requestAnimationFrame(follow);
