-- Sends each radiograph that arrives to the node. Its results have other modalities (SEG, SR, OT),
-- so that nothing goes round in a circle.
local forwarded = { CR = true, DX = true }

function OnStoredInstance(instanceId, tags, metadata)
   if forwarded[tags['Modality']] then
      SendToModality(instanceId, 'lungseg')
   end
end
